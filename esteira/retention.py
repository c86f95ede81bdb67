"""Delete what is older than RETENTION_DAYS: a step of its own, after the sweep, in boxes of 50 ms.

Jobs go with their events, logs and files, through the partial index on `finished_at`. What dying processes left of
files goes after a day, and keys of requests are kept for at least a day, because clients may repeat for that long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings

from esteira.db import Db

BOX_S = 0.05
PAUSE_S = 10.0
BATCH = 500
DAY_S = 86400.0


class Retention:
    """Works for 50 ms at a time, and rests for 10 s when there is nothing left to do."""

    def __init__(self) -> None:
        self._next = 0.0

    def step(self, db: Db) -> bool:
        """Delete for a moment; return whether there is more."""
        began = time.monotonic()
        if began < self._next:
            return False
        keep_s = settings.RETENTION_DAYS * DAY_S
        steps: list[Callable[[], int]] = [
            lambda: _jobs(db, keep_s),
            lambda: _files(db, keep_s),
            lambda: _rows(db, "esteira_idempotencykey", "id", "created_at", max(keep_s, DAY_S)),
            lambda: _rows(db, "esteira_scheduleskip", "id", "tick_at", keep_s),
            lambda: _rows(db, "esteira_stat", "id", "minute", keep_s),
            lambda: _rows(db, "esteira_worker", "name", "last_seen", DAY_S),
        ]
        for step in steps:
            while step() == BATCH:
                if time.monotonic() - began > BOX_S:
                    return True
        self._next = time.monotonic() + PAUSE_S
        return False


def _jobs(db: Db, keep_s: float) -> int:
    with db.transaction():
        ids = [
            row[0]
            for row in db.fetch(
                """SELECT id FROM esteira_job WHERE finished_at IS NOT NULL
                     AND finished_at < (SELECT clock_timestamp()) - %s * interval '1 second'
                   ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED""",
                [keep_s, BATCH],
            )
        ]
        if ids:
            db.fetch(
                """DELETE FROM esteira_filechunk c USING esteira_file f
                   WHERE c.file_id = f.id AND f.job_id = ANY(%s)""",
                [ids],
            )
            for table in ("esteira_file", "esteira_joblog", "esteira_jobevent"):
                db.fetch(f"DELETE FROM {table} WHERE job_id = ANY(%s)", [ids])
            db.fetch("DELETE FROM esteira_job WHERE id = ANY(%s)", [ids])
    return len(ids)


def _files(db: Db, keep_s: float) -> int:
    """Old uploads, and after a day what no completion attached: of attempts that died, or of uploads cut off."""
    with db.transaction():
        ids = [
            row[0]
            for row in db.fetch(
                """SELECT f.id FROM esteira_file f LEFT JOIN esteira_job j ON j.id = f.job_id
                   WHERE (f.created_at < (SELECT clock_timestamp()) - %s * interval '1 second' AND f.job_id IS NULL)
                      OR (f.created_at < (SELECT clock_timestamp()) - %s * interval '1 second' AND f.attached_at IS NULL
                          AND (f.sha256 = '' OR f.job_id IS NOT NULL)
                          AND (j.id IS NULL OR j.state <> 'running' OR j.attempt <> f.attempt))
                   ORDER BY f.created_at LIMIT %s FOR UPDATE OF f SKIP LOCKED""",
                [keep_s, DAY_S, BATCH],
            )
        ]
        if ids:
            db.fetch("DELETE FROM esteira_filechunk WHERE file_id = ANY(%s)", [ids])
            db.fetch("DELETE FROM esteira_file WHERE id = ANY(%s)", [ids])
    return len(ids)


def _rows(db: Db, table: str, key: str, stamp: str, keep_s: float) -> int:
    rows = db.fetch(
        f"""DELETE FROM {table} WHERE {key} IN (
              SELECT {key} FROM {table} WHERE {stamp} < (SELECT clock_timestamp()) - %s * interval '1 second' LIMIT %s)
            RETURNING 1""",
        [keep_s, BATCH],
    )
    return len(rows)
