"""Store facts of a running attempt without changing its state: its start, its progress, its log, a late result.

A row that another transaction locks is skipped, and written the next time: see `finish`.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from esteira.db import Db
from esteira.record import MINE_ALONE, NOTED

_START = f"""
WITH {MINE_ALONE}
UPDATE esteira_job j SET started_at = j.claimed_at + %(started)s * interval '1 second'
FROM locked WHERE j.id = locked.id AND j.id = %(id)s RETURNING 1
"""


def start(db: Db, job_id: UUID, attempt: int, started_s: float) -> bool:
    """Store the start of a claimed job that does not end at once; False if its row is locked or lost."""
    rows = db.fetch(_START, {"id": job_id, "attempt": attempt, "started": started_s})
    return bool(rows)


_PROGRESS = f"""
WITH {MINE_ALONE}
UPDATE esteira_job j SET progress_done = %(done)s, progress_total = %(total)s, progress_text = %(text)s
FROM locked WHERE j.id = locked.id AND j.id = %(id)s RETURNING 1
"""


def progress(db: Db, job_id: UUID, attempt: int, done: float, total: float | None, text: str) -> bool:
    """Store the progress of an attempt; False if its row is locked or lost."""
    rows = db.fetch(_PROGRESS, {"id": job_id, "attempt": attempt, "done": done, "total": total, "text": text})
    return bool(rows)


_LATE_RESULT = f"""
{NOTED}
SELECT j.id, clock_timestamp(), 'late_result', %(attempt)s, '', '',
  jsonb_build_object('outcome', %(kind)s::text)
FROM esteira_job j WHERE j.id = %(id)s
"""


def late_result(db: Db, job_id: UUID, attempt: int, kind: str) -> None:
    """Note that an attempt ended after another had taken its job over; its outcome changed nothing."""
    db.fetch(_LATE_RESULT, {"id": job_id, "attempt": attempt, "kind": kind})


_LOG_LINES = """
WITH free AS MATERIALIZED (
  SELECT j.id FROM esteira_job j WHERE j.id = ANY(%(ids)s::uuid[])
  ORDER BY j.id FOR KEY SHARE OF j SKIP LOCKED)
INSERT INTO esteira_joblog (job_id, attempt, at, text)
SELECT v.id, v.attempt, clock_timestamp(), v.text
FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(texts)s::text[]) AS v(id, attempt, text)
JOIN free ON free.id = v.id RETURNING job_id
"""


def log_lines(db: Db, lines: Sequence[tuple[UUID, int, str]]) -> set[UUID]:
    """Add pieces of log (job, attempt, text); they belong to the attempt, even if another attempt owns the job.

    Return the jobs whose rows have a lock that blocks foreign keys: their pieces are not stored yet.
    """
    ids, attempts, texts = zip(*lines, strict=True)
    rows = db.fetch(_LOG_LINES, {"ids": list(ids), "attempts": list(attempts), "texts": list(texts)})
    rest = set(ids) - {row[0] for row in rows}
    if not rest:
        return rest
    there = db.fetch("SELECT id FROM esteira_job WHERE id = ANY(%(ids)s::uuid[])", {"ids": list(rest)})
    return {row[0] for row in there}


def state_of(db: Db, job_id: UUID, attempt: int) -> str:
    """Return the job's state if this attempt is its latest, else "another attempt's"."""
    rows = db.fetch(
        "SELECT state FROM esteira_job WHERE id = %(id)s AND attempt = %(attempt)s",
        {"id": job_id, "attempt": attempt},
    )
    return str(rows[0][0]) if rows else "another attempt's"


_WAS_KILLED = """
SELECT 1 FROM esteira_job j WHERE j.id = %(id)s AND (
  (j.state = 'cancelled' AND j.cancel_force AND j.attempt = %(attempt)s)
  OR EXISTS (SELECT 1 FROM esteira_jobevent e WHERE e.job_id = j.id AND e.attempt = %(attempt)s
    AND e.kind = 'cancelled' AND e.detail @> '{"force": true}'))
"""


def was_killed(db: Db, job_id: UUID, attempt: int) -> bool:
    """Return whether an attempt was cancelled by force: by `kill`, also if it was retried since, or by a rescue."""
    rows = db.fetch(_WAS_KILLED, {"id": job_id, "attempt": attempt})
    return bool(rows)
