"""Delete rows older than RETENTION_DAYS: a separate step at the end of the turn, in time slices of 50 ms.

Jobs are deleted with their events, logs and files, unless another job names one of those files. Uploads are deleted
once no job and no schedule names them, and incomplete files of killed processes after a day. Idempotency keys are kept
for at least a day, because clients may repeat a request for that long. Statistics are deleted by minute; their totals
stay. Results, groups and chords of Celery tasks end at a moment of their own. No step takes long, however many rows
belong to one job: batches shrink when a statement takes too long, and the chunks of files are deleted a few at a time
(`esteira.keeper.disposal`).
"""

from __future__ import annotations

import time

from django.conf import settings

from esteira.db import Db
from esteira.db.erasing import delete_some
from esteira.db.walk import clock
from esteira.keeper.disposal import BATCH, Disposal

BOX_S = 0.05
PAUSE_S = 10.0
DAY_S = 86400.0

# A job whose file another job names stays until that job is deleted.
_OLD_JOBS = """
SELECT j.id FROM esteira_job j
WHERE j.finished_at IS NOT NULL AND j.finished_at > to_timestamp(%(after)s::float8)
  AND j.finished_at <= to_timestamp(%(until)s::float8) AND j.id <> ALL(%(skipped)s::uuid[])
  AND NOT EXISTS (SELECT 1 FROM esteira_file f JOIN esteira_fileuse u ON u.file_id = f.id
                  WHERE f.job_id = j.id AND u.job_id <> j.id)
ORDER BY j.finished_at LIMIT %(limit)s"""
_LOCK_JOBS = """
SELECT j.id FROM esteira_job j WHERE j.id = ANY(%(ids)s::uuid[])
  AND j.finished_at <= to_timestamp(%(until)s::float8) ORDER BY j.id FOR UPDATE SKIP LOCKED"""
_LOCK_FILES_OF = (
    "SELECT f.id FROM esteira_file f WHERE f.job_id = ANY(%(ids)s::uuid[]) ORDER BY f.id FOR UPDATE"
)
_USED_BY_OTHERS = """
SELECT DISTINCT f.job_id FROM esteira_file f JOIN esteira_fileuse u ON u.file_id = f.id
WHERE f.job_id = ANY(%(ids)s::uuid[]) AND u.job_id <> f.job_id"""

_NEEDED = """(EXISTS (SELECT 1 FROM esteira_fileuse u WHERE u.file_id = f.id)
    OR EXISTS (SELECT 1 FROM esteira_schedule s WHERE strpos(s.params::text, f.id::text) > 0))"""
_UPLOAD = f"f.job_id IS NULL AND f.sha256 <> '' AND NOT {_NEEDED}"
# Files of attempts that died, failed or lost their job, of interrupted uploads, and of interrupted deletions.
_LOOSE = """f.attached_at IS NULL AND (f.sha256 = '' OR f.job_id IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM esteira_job j
                  WHERE j.id = f.job_id AND j.state = 'running' AND j.attempt = f.attempt)"""
_OLD_FILES = """
SELECT f.id FROM esteira_file f
WHERE f.created_at > to_timestamp(%(after)s::float8) AND f.created_at <= to_timestamp(%(until)s::float8)
  AND f.id <> ALL(%(skipped)s::uuid[]) AND {which} ORDER BY f.created_at LIMIT %(limit)s"""
_LOCK_FILES = (
    "SELECT f.id FROM esteira_file f WHERE f.id = ANY(%(ids)s::uuid[]) ORDER BY f.id FOR UPDATE SKIP LOCKED"
)
_STILL = "SELECT f.id FROM esteira_file f WHERE f.id = ANY(%(ids)s::uuid[]) AND {which}"

_OLD_ROWS = """
SELECT r.{key} FROM {table} r WHERE r.{stamp} > to_timestamp(%(after)s::float8)
  AND r.{stamp} <= to_timestamp(%(until)s::float8) AND r.{key} <> ALL(%(skipped)s::{type}[])
ORDER BY r.{stamp} LIMIT %(limit)s"""


class Retention:
    """Works for 50 ms at a time, and pauses for 10 s when there is nothing left to delete."""

    def __init__(self) -> None:
        self._next = 0.0
        keep_s = settings.ESTEIRA_RETENTION_DAYS * DAY_S
        self._disposals = [
            Disposal("jobs", find=_OLD_JOBS, remove=_remove_jobs, keep_s=keep_s),
            _files("uploads", _UPLOAD, keep_s),
            _files("unattached files", _LOOSE, DAY_S),
            _rows("esteira_idempotencykey", "created_at", max(keep_s, DAY_S)),
            _rows("esteira_scheduleskip", "tick_at", keep_s),
            _rows("esteira_stat", "minute", keep_s),
            _expired("esteira_taskresult", "task_id"),
            _expired("esteira_taskgroup", "group_id"),
            _expired("esteira_taskchord", "chord_id", parts="esteira_taskchordpart"),
            _expired("esteira_taskrevoked", "task_id"),
        ]

    def step(self, db: Db) -> bool:
        """Delete for a moment; return whether there is more."""
        began = time.monotonic()
        if began < self._next:
            return False
        now, ends = clock(db), began + BOX_S
        for disposal in self._disposals:
            if disposal.step(db, now, ends):
                return True
        _workers(db)
        if all(disposal.through for disposal in self._disposals):
            self._next = time.monotonic() + PAUSE_S
        return False


def _remove_jobs(db: Db, ids: list[object], until: float) -> bool:
    """Remove jobs that are still old after they were locked; return False if their files need another turn."""
    ids = _ids(db, _LOCK_JOBS, {"ids": ids, "until": until})
    files = _ids(db, _LOCK_FILES_OF, {"ids": ids}) if ids else []
    if files:
        # Read after the lock: a job that named a file earlier is visible here; a later one finds that the file is gone.
        used = set(_ids(db, _USED_BY_OTHERS, {"ids": ids}))
        ids = [one for one in ids if one not in used]
        if not delete_some(db, _ids(db, _LOCK_FILES_OF, {"ids": ids})):
            return False
    for table in ("esteira_joblog", "esteira_jobevent"):
        db.fetch(f"DELETE FROM {table} WHERE job_id = ANY(%s)", [ids])
    db.fetch("DELETE FROM esteira_job WHERE id = ANY(%s)", [ids])
    return True


def _files(name: str, which: str, keep_s: float) -> Disposal:
    def remove(db: Db, ids: list[object], until: float) -> bool:
        locked = _ids(db, _LOCK_FILES, {"ids": ids})
        return delete_some(db, _ids(db, _STILL.format(which=which), {"ids": locked}))

    return Disposal(name, find=_OLD_FILES.format(which=which), remove=remove, keep_s=keep_s)


def _rows(table: str, stamp: str, keep_s: float) -> Disposal:
    def remove(db: Db, ids: list[object], until: float) -> bool:
        db.fetch(f"DELETE FROM {table} WHERE id = ANY(%s)", [ids])
        return True

    find = _OLD_ROWS.format(table=table, stamp=stamp, key="id", type="bigint")
    return Disposal(f"rows of {table}", find=find, remove=remove, keep_s=keep_s)


def _expired(table: str, key: str, *, parts: str = "") -> Disposal:
    """Delete rows of tasks whose own moment has passed; a result that was stored again meanwhile stays."""

    def remove(db: Db, keys: list[object], until: float) -> bool:
        over = _ids(
            db,
            f"""SELECT {key} FROM {table} WHERE {key} = ANY(%(keys)s::text[])
                AND expires_at <= to_timestamp(%(until)s::float8) ORDER BY {key} FOR UPDATE SKIP LOCKED""",
            {"keys": keys, "until": until},
        )
        if parts:
            db.fetch(f"DELETE FROM {parts} WHERE {key} = ANY(%s)", [over])
        db.fetch(f"DELETE FROM {table} WHERE {key} = ANY(%s)", [over])
        return True

    find = _OLD_ROWS.format(table=table, stamp="expires_at", key=key, type="text")
    return Disposal(f"rows of {table}", find=find, remove=remove, keep_s=0.0)


def _workers(db: Db) -> None:
    """Delete the rows of workers that sent no heartbeat for a day; they are few."""
    db.fetch(
        """DELETE FROM esteira_worker WHERE name IN (SELECT name FROM esteira_worker
             WHERE last_seen < (SELECT clock_timestamp()) - %s * interval '1 second' LIMIT %s)""",
        [DAY_S, BATCH],
    )


def _ids(db: Db, sql: str, asked: dict[str, object]) -> list[object]:
    return [row[0] for row in db.fetch(sql, asked)]
