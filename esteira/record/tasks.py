"""T1, T6 and T10 for adopted Celery tasks: store messages, put a retried or rejected one back, find rows by task ids.

A task's message is its row. The row has an id of its own, and the id that callers know in `task_id`: several sends may
have the same one. Everything that follows from the end of a task is written in the transaction of its end: its result,
its part of a chord, the rest of its chain. If the process dies before that transaction's commit, nothing of it is
recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from esteira import ids
from esteira.db import Db
from esteira.record import DUE_AGAIN, MINE_ALONE, NOTED, RUNNING
from esteira.record.insert import SLICE

#: The names under which a row shows a task's arguments: no parameter of a job type can have one of them.
ARGS, KWARGS = "*args", "**kwargs"
#: Tasks have no number of tries here, because Celery counts their retries; the row allows the most.
MOST_TRIES = 1001
#: The longest pause before a rejected message is handed out again.
LONGEST_REJECTED_S = 30.0


@dataclass(kw_only=True, slots=True)
class NewTask:
    """A message, ready to store. `delay_s` and `expires_in_s` are added to the database's clock."""

    task_id: str
    type: str
    said: Mapping[str, str]
    message: bytes
    queue: str
    priority: int
    lease_s: float
    timeout_s: float
    delay_s: float | None = None
    run_at: datetime | None = None
    expires_in_s: float | None = None
    expires_at: datetime | None = None
    publish: bool = False
    id: UUID | None = None
    # For the hint of a new row, see `NewJob`.
    solo: ClassVar[bool] = False
    front: ClassVar[bool] = False

    @property
    def task(self) -> Mapping[str, str]:
        return {**self.said, "id": self.task_id}

    @property
    def params(self) -> str:
        return json.dumps(self.said, ensure_ascii=False)


# The stored fields of a NewTask, each with the type of its SQL parameter.
_COLUMNS = {
    "task_id": "text",
    "type": "text",
    "params": "text",
    "message": "bytea",
    "queue": "text",
    "priority": "smallint",
    "lease_s": "float8",
    "timeout_s": "float8",
    "delay_s": "float8",
    "run_at": "timestamptz",
    "expires_in_s": "float8",
    "expires_at": "timestamptz",
    "publish": "boolean",
}
# The clock is read once, and completes the ids: see `esteira.ids`.
_INSERT = f"""
WITH m AS MATERIALIZED (
  SELECT c.now, {ids.first_half("c.now")} AS half FROM (SELECT clock_timestamp() AS now) AS c)
INSERT INTO esteira_job (id, created_at, task_id, type, params, message, queue, priority, max_failures, backoff_s,
  lease_s, timeout_s, run_at, expires_at, cancel_requested_at, cancel_by, published_at)
SELECT (m.half || v.half)::uuid, m.now, v.task_id, v.type, v.params::jsonb, v.message, v.queue, v.priority,
  {MOST_TRIES}, 1, v.lease_s, v.timeout_s,
  coalesce(v.run_at, m.now + coalesce(v.delay_s, 0) * interval '1 second'),
  coalesce(v.expires_at, m.now + v.expires_in_s * interval '1 second'),
  r.revoked_at, CASE WHEN r.revoked_at IS NULL THEN '' ELSE 'revoke' END,
  CASE WHEN v.publish AND coalesce(v.delay_s, 0) <= 0 AND coalesce(v.run_at <= m.now, true) THEN m.now END
FROM m CROSS JOIN
  unnest(%(half)s::text[], {", ".join(f"%({name})s::{t}[]" for name, t in _COLUMNS.items())})
    AS v(half, {", ".join(_COLUMNS)})
LEFT JOIN esteira_taskrevoked r ON r.task_id = v.task_id
RETURNING id, published_at IS NOT NULL
"""


def insert(db: Db, tasks: Sequence[NewTask]) -> list[NewTask]:
    """T1: store messages, all or none in the caller's transaction; return those whose hints are to be sent now."""
    now: list[NewTask] = []
    for first in range(0, len(tasks), SLICE):
        now += _insert(db, tasks[first : first + SLICE])
    return now


def _insert(db: Db, tasks: Sequence[NewTask]) -> list[NewTask]:
    halves = ids.noises(len(tasks))
    columns: dict[str, list[Any]] = {name: [getattr(task, name) for task in tasks] for name in _COLUMNS}
    rows = db.fetch(_INSERT, {**columns, "half": [f"{half:016x}" for half in halves]})
    stored = {row[0].int & ids.NOISE: row for row in rows}
    for task, half in zip(tasks, halves, strict=True):
        task.id = stored[half][0]
    return [task for task, half in zip(tasks, halves, strict=True) if stored[half][1]]


_AGAIN = f"""
WITH {MINE_ALONE.replace(" SKIP LOCKED", "")},
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, refused_since = NULL, interrupted = false,
    failures = j.failures + 1, hold_until = NULL,
    started_at = coalesce(j.started_at, j.claimed_at + %(started)s * interval '1 second'),
    state = CASE WHEN j.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    message = %(message)s, params = %(params)s::text::jsonb, queue = %(queue)s,
    priority = CASE WHEN %(keeps)s THEN j.priority ELSE %(priority)s END,
    timeout_s = %(timeout_s)s,
    run_at = coalesce(%(run_at)s::timestamptz, clock_timestamp() + %(delay_s)s::float8 * interval '1 second'),
    expires_at = coalesce(%(expires_at)s::timestamptz,
      clock_timestamp() + %(expires_in_s)s::float8 * interval '1 second'),
    published_at = CASE WHEN %(publish)s AND j.cancel_requested_at IS NULL AND %(delay_s)s::float8 <= 0
      AND coalesce(%(run_at)s::timestamptz <= clock_timestamp(), true) THEN clock_timestamp() END,
    error = %(error)s::text::jsonb
  FROM locked WHERE j.id = locked.id AND j.id = %(id)s
  RETURNING j.id, j.attempt, j.state, j.priority, j.published_at),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'retry_scheduled' ELSE state END, attempt, '', '',
    jsonb_build_object('error', %(error)s::text::jsonb, 'delay_s', round(%(delay_s)s::numeric, 3)) FROM moved)
SELECT published_at IS NOT NULL, priority FROM moved
"""


def again(
    db: Db,
    job_id: UUID,
    attempt: int,
    following: NewTask,
    *,
    error: str,
    started_s: float,
    keeps_priority: bool,
) -> bool | None:
    """T6 for a task that asked to be tried again: the same row goes back to the queue with the new message.

    Return whether its hint is to be sent now; None if another attempt owns the row.
    """
    asked = {
        "id": job_id,
        "attempt": attempt,
        "error": error,
        "started": started_s,
        "keeps": keeps_priority,
        **{name: getattr(following, name) for name in _COLUMNS if name not in ("task_id", "type", "lease_s")},
    }
    asked["delay_s"] = following.delay_s or 0.0
    rows = db.fetch(_AGAIN, asked)
    if not rows:
        return None
    following.id, following.priority = job_id, rows[0][1]
    return bool(rows[0][0])


_BECAME = """
SELECT state, message = %(message)s, settled FROM esteira_job WHERE id = %(id)s AND attempt = %(attempt)s
"""


def became(db: Db, job_id: UUID, attempt: int, message: bytes) -> tuple[str, bool, bool] | None:
    """Return the state of a row that this attempt was the last to own, if it has this message, and if it is settled."""
    rows = db.fetch(_BECAME, {"id": job_id, "attempt": attempt, "message": message})
    return (rows[0][0], rows[0][1], rows[0][2]) if rows else None


_SETTLE_MINE = f"""
UPDATE esteira_job j SET settled = true WHERE j.id = %(id)s AND j.attempt = %(attempt)s AND NOT {RUNNING}
"""


def settle_mine(db: Db, job_id: UUID, attempt: int) -> None:
    """Note in the transaction of a task's end that everything that follows from it is recorded."""
    db.fetch(_SETTLE_MINE, {"id": job_id, "attempt": attempt})


_SETTLE = """
WITH locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j
  WHERE j.id = %(id)s AND j.state IN ('cancelled', 'dead', 'expired', 'failed') AND NOT j.settled
  FOR NO KEY UPDATE OF j SKIP LOCKED)
UPDATE esteira_job j SET settled = true FROM locked WHERE j.id = locked.id AND j.id = %(id)s RETURNING j.message
"""


def settle(db: Db, job_id: UUID) -> bytes | None:
    """Mark a task settled in the transaction that records what follows from its end; return its message.

    None: it was retried by an operator, or another keeper settles it.
    """
    rows = db.fetch(_SETTLE, {"id": job_id})
    return bytes(rows[0][0]) if rows else None


_REJECT = f"""
WITH {MINE_ALONE.replace(" SKIP LOCKED", "")},
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL, interrupted = false,
    run_at = {DUE_AGAIN},
    state = CASE WHEN j.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
    hold_until = CASE WHEN j.cancel_requested_at IS NULL THEN clock_timestamp()
      + least(power(2, least(j.attempt - j.failures, 10) - 2), {LONGEST_REJECTED_S}) * interval '1 second' END
  FROM locked WHERE j.id = locked.id AND j.id = %(id)s RETURNING j.id, j.attempt, j.state),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'rescued' ELSE state END, attempt, '', '',
    jsonb_build_object('reason', 'rejected by the task') FROM moved)
SELECT 1 FROM moved
"""


def reject(db: Db, job_id: UUID, attempt: int) -> bool:
    """T10 for a task that rejected its message and wants it again: after half a second, and longer each time."""
    return bool(db.fetch(_REJECT, {"id": job_id, "attempt": attempt}))
