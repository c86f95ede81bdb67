"""Uploads and results, stored in chunks."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from esteira.ids import uuid7
from esteira.models.clock import ClockTimestamp
from esteira.models.jobs import Job


class File(models.Model):
    """An upload or a result; a result counts once its attempt's completion has attached it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # The files of a job are found by the index of `file_one_name_per_attempt`.
    job = models.ForeignKey(Job, null=True, on_delete=models.CASCADE, db_index=False, related_name="files")
    attempt = models.IntegerField(null=True)
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=120, default="application/octet-stream")
    size = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(db_default=ClockTimestamp())
    attached_at = models.DateTimeField(null=True)
    #: The account of an upload, such as `user:1`; empty for results, and for uploads from the command line or Python.
    account = models.CharField(max_length=64, blank=True, default="", db_default="")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(job__isnull=True, attempt__isnull=True)
                | Q(job__isnull=False, attempt__isnull=False),
                name="file_result_has_attempt",
            ),
            models.UniqueConstraint(
                fields=["job", "attempt", "name"],
                condition=Q(job__isnull=False),
                name="file_one_name_per_attempt",
            ),
        ]
        # For retention: old uploads, and files that no completion attached. For quotas: the uploads of an account.
        indexes = [
            models.Index(
                fields=["account", "created_at"], condition=Q(job__isnull=True), name="file_account"
            ),
            models.Index(fields=["created_at"], condition=Q(job__isnull=True), name="file_upload"),
            models.Index(
                fields=["created_at"],
                condition=Q(attached_at__isnull=True) & (Q(sha256="") | Q(job__isnull=False)),
                name="file_loose",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class FileChunk(models.Model):
    """A piece of a file, at most 256 KiB."""

    id = models.BigAutoField(primary_key=True)
    file = models.ForeignKey(File, on_delete=models.CASCADE, db_index=False)
    seq = models.IntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["file", "seq"], name="chunk_once")]


class FileUse(models.Model):
    """A file that a job's parameters name; as long as the job exists, retention leaves the file alone."""

    id = models.BigAutoField(primary_key=True)
    # The migration creates both constraints with ON DELETE CASCADE: a release without uses deletes jobs and files too.
    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, db_index=False, db_constraint=False, related_name="uses"
    )
    file = models.ForeignKey(File, on_delete=models.CASCADE, db_constraint=False, related_name="uses")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "file"], name="file_use_once")]
