"""The limits on the space of all files (FILES_MAX_TOTAL) and of the uploads of one account (FILES_MAX_PER_ACCOUNT).

A file's row holds how many bytes are already stored, so the bytes of writers that died count until retention removes
them. The bytes of an open transaction are not visible in any row yet; the process that writes them adds them to the
sum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from esteira.db import Db
from esteira.errors import FilesFull, QuotaFull

USED_CACHE_S = 5.0


class Space:
    """Bytes that an open transaction of this process has written, and that no other connection can read yet."""

    bytes = 0


class Used:
    """The space of all files, unfinished ones included, in bytes; read at most every 5 s.

    Concurrent writers may exceed the limit: by the bytes that other processes wrote since the sum was read, and by
    those in their open transactions, at most one file for each running upload.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Space] = []
        self.forget()

    def forget(self) -> None:
        self._bytes, self._asked = 0, float("-inf")

    @contextmanager
    def by_open_transaction(self) -> Iterator[Space]:
        """Count the bytes that a transaction writes until it ends."""
        space = Space()
        with self._lock:
            self._open.append(space)
        try:
            yield space
        finally:
            with self._lock:
                self._open.remove(space)

    def refuse_more_than_fits(self, db: Db, length: int, space: Space | None = None) -> None:
        """Count bytes that will be written, those of an open transaction in its `space`; raises FilesFull."""
        if time.monotonic() - self._asked > USED_CACHE_S:
            self._ask(db, space)
        with self._lock:
            if self._bytes + length > settings.ESTEIRA_FILES_MAX_TOTAL:
                raise FilesFull
            self._bytes += length
            if space is not None:
                space.bytes += length

    def _ask(self, db: Db, mine: Space | None) -> None:
        stored = int(db.fetch("SELECT coalesce(sum(size), 0) FROM esteira_file")[0][0])
        with self._lock:  # the statement above reads its own transaction
            self._bytes = stored + sum(space.bytes for space in self._open if space is not mine)
            self._asked = time.monotonic()


used = Used()


def refuse_over_quota(db: Db, account: str, more: int = 0) -> None:
    """Raise QuotaFull if an account's uploads, running ones included, and `more` bytes exceed its limit.

    The last statement of an upload runs this check in its own transaction: two at once run one after the other, so the
    limit holds.
    """
    if not account:
        return
    db.fetch("SELECT pg_advisory_xact_lock(hashtextextended('esteira quota ' || %s, 0))", [account])
    rows = db.fetch(
        "SELECT coalesce(sum(size), 0) FROM esteira_file WHERE job_id IS NULL AND account = %s", [account]
    )
    taken = int(rows[0][0])
    if taken + more > settings.ESTEIRA_FILES_MAX_PER_ACCOUNT:
        raise QuotaFull(taken, settings.ESTEIRA_FILES_MAX_PER_ACCOUNT)
