"""The tables of adopted Celery tasks: results, groups, chords with their parts, and revoked ids.

The row of the job holds the message of a task; these tables hold what Celery keeps in a result backend. Rows of all
five end at `expires_at`, after which retention deletes them. `payload` is what the result backend has encoded.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from esteira.models.clock import ClockTimestamp
from esteira.models.within import at_most, moments
from esteira.values.bounds import MESSAGE_BYTES, TASK_ID


def _expiry(name: str) -> models.Index:
    """Return the index by which retention finds the rows that have expired."""
    return models.Index(fields=["expires_at"], condition=Q(expires_at__isnull=False), name=name)


class TaskResult(models.Model):
    """The state and result of a task, by the id that its caller knows."""

    task_id = models.CharField(max_length=TASK_ID.most, primary_key=True)
    state = models.CharField(max_length=50)
    payload = models.BinaryField()
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=at_most("payload", MESSAGE_BYTES), name="task_result_size"),
            models.CheckConstraint(condition=moments("expires_at"), name="task_result_moments"),
        ]
        indexes = [_expiry("task_result_expiry")]


class TaskGroup(models.Model):
    """The members of a saved group."""

    group_id = models.CharField(max_length=TASK_ID.most, primary_key=True)
    payload = models.BinaryField()
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=at_most("payload", MESSAGE_BYTES), name="task_group_size"),
            models.CheckConstraint(condition=moments("expires_at"), name="task_group_moments"),
        ]
        indexes = [_expiry("task_group_expiry")]


class TaskChord(models.Model):
    """A chord: how many parts it has, as soon as that is known, and whether its body was sent or has failed."""

    chord_id = models.CharField(max_length=TASK_ID.most, primary_key=True)
    size = models.IntegerField(null=True)
    added = models.IntegerField(db_default=0)
    counted = models.IntegerField(db_default=0)
    ended = models.BooleanField(db_default=False)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(size__gte=0) | Q(size__isnull=True), name="task_chord_size"),
            models.CheckConstraint(condition=Q(added__gte=0, counted__gte=0), name="task_chord_counts"),
            models.CheckConstraint(condition=moments("expires_at"), name="task_chord_moments"),
        ]
        indexes = [_expiry("task_chord_expiry")]


class TaskChordPart(models.Model):
    """The outcome of one part of a chord; a part that ends a second time changes nothing."""

    id = models.BigAutoField(primary_key=True)
    chord = models.ForeignKey(TaskChord, on_delete=models.CASCADE, db_index=False, related_name="parts")
    task_id = models.CharField(max_length=TASK_ID.most)
    place = models.IntegerField(null=True)
    payload = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["chord", "task_id"], name="task_chord_part_once"),
            models.CheckConstraint(condition=at_most("payload", MESSAGE_BYTES), name="task_chord_part_size"),
        ]


class TaskRevoked(models.Model):
    """An id that was revoked before its task was sent: a task that is sent under it never runs."""

    task_id = models.CharField(max_length=TASK_ID.most, primary_key=True)
    revoked_at = models.DateTimeField(db_default=ClockTimestamp())
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=moments("revoked_at", "expires_at"), name="task_revoked_moments")
        ]
        indexes = [_expiry("task_revoked_expiry")]
