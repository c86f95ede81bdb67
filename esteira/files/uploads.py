"""Uploads of accounts: stored as they arrive, listed, deleted, and usable in parameters by their own account only.

A running upload is an invisible row without a checksum; each of its chunks is committed separately, so a slow client
holds no transaction open. Its last statement makes it a file of its account. If a client disconnects, its incomplete
upload is deleted at once; if the process dies, retention deletes it after a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from esteira.db import Db, DjangoConnection
from esteira.db.erasing import delete_some
from esteira.errors import FileInUse, Mistake, NotFound, TooLarge
from esteira.files import MAX_BYTES, ChunkWriter, new_row, safe_name, safe_type
from esteira.files.space import refuse_over_quota, used
from esteira.job_types.parameters import refusal
from esteira.models import File

# The command line and Python may name any file; others may name their own uploads, and files of their own jobs.
_EXISTS = "SELECT 1 FROM esteira_file WHERE id = %(id)s AND sha256 <> ''"
_IS_THEIRS = """
SELECT 1 FROM esteira_file f LEFT JOIN esteira_job j ON j.id = f.job_id
WHERE f.id = %(id)s AND f.sha256 <> '' AND CASE WHEN f.job_id IS NULL THEN f.account = %(account)s
  ELSE f.attached_at IS NOT NULL AND j.account = %(account)s END"""


class Upload:
    """One running upload; every call is a few statements, none of them in an open transaction."""

    def __init__(self, account: str, *, expected: int = 0, kept: bool = True) -> None:
        """If there is no room for `expected` bytes, they are refused early.

        If not `kept`, the upload is only checked.
        """
        self.account, self.size = account, 0
        self._kept = kept
        self._digest = hashlib.sha256()
        self._writer: ChunkWriter | None = None
        if expected > MAX_BYTES:
            raise TooLarge("file", MAX_BYTES)
        if kept:
            refuse_over_quota(DjangoConnection(), account, expected)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def begin(self, name: str, content_type: str | None) -> None:
        if self._kept:
            safe = safe_name(name)
            row = new_row(DjangoConnection(), safe, safe_type(content_type, safe), account=self.account)
            self._writer = ChunkWriter(DjangoConnection(), row)

    def write(self, data: bytes) -> None:
        """Store the received bytes; raises TooLarge or FilesFull."""
        self.size += len(data)
        if self.size > MAX_BYTES:
            raise TooLarge("file", MAX_BYTES)
        self._digest.update(data)
        if self._writer is not None:
            self._writer.write(data)

    def finish(self) -> File | None:
        """Make it a file, in the caller's transaction if there is one; None if it was only checked."""
        if self._writer is None:
            return None
        db = DjangoConnection()
        with db.transaction():
            refuse_over_quota(db, self.account, len(self._writer.unstored))
            self._writer.finish()
        return File.objects.get(pk=self._writer.file_id)

    def discard(self) -> None:
        """Delete the bytes that were stored."""
        writer, self._writer = self._writer, None
        if writer is not None:
            _delete_all(writer.file_id)


def uploads(account: str | None) -> QuerySet[File]:
    """Return the uploads of an account, or of all accounts."""
    found = File.objects.filter(job__isnull=True).exclude(sha256="")
    return found if account is None else found.filter(account=account)


def delete_upload(file_id: UUID, account: str | None) -> None:
    """Delete an upload unless a job that has not ended needs it; raises NotFound or FileInUse."""
    db = DjangoConnection()
    with db.transaction():
        rows = db.fetch(
            """SELECT account FROM esteira_file WHERE id = %s AND job_id IS NULL AND sha256 <> '' FOR UPDATE""",
            [file_id],
        )
        if not rows or account not in (None, rows[0][0]):
            raise NotFound("file", file_id)
        _refuse_if_needed(db, file_id, account)
        # Hidden in the same transaction as the check; the bytes, which may be many, are deleted after it.
        db.fetch("UPDATE esteira_file SET sha256 = '' WHERE id = %s", [file_id])
    _delete_all(file_id)


def may_name(account: str | None) -> Callable[[str], None]:
    """Return a function that raises ValueError if parameters may not name a file.

    `account` None means trusted code, for which a file only has to exist. Files that were found are cached.
    """
    db, found = DjangoConnection(), set[str]()

    def look(file_id: str) -> None:
        if file_id in found:
            return
        asked = {"id": UUID(file_id), "account": account}
        if not db.fetch(_EXISTS if account is None else _IS_THEIRS, asked):
            raise refusal(Mistake(code="unknown-file"))
        found.add(file_id)

    return look


def _refuse_if_needed(db: Db, file_id: UUID, account: str | None) -> None:
    """Raise FileInUse with the job or schedule that needs a file, without details of another account."""
    jobs = db.fetch(
        """SELECT j.id, j.account FROM esteira_fileuse u JOIN esteira_job j ON j.id = u.job_id
           WHERE u.file_id = %s AND j.finished_at IS NULL LIMIT 1""",
        [file_id],
    )
    if jobs:
        is_theirs = account in (None, jobs[0][1])
        raise FileInUse(file_id, "job", jobs[0][0] if is_theirs else None)
    schedules: list[Any] = db.fetch(
        "SELECT name FROM esteira_schedule WHERE strpos(params::text, %s) > 0 LIMIT 1", [str(file_id)]
    )
    if schedules:
        raise FileInUse(file_id, "schedule", schedules[0][0] if account is None else None)


def _delete_all(file_id: UUID) -> None:
    db = DjangoConnection()
    while not delete_some(db, [file_id]):
        pass
    used.forget()
