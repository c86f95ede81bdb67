"""T4 extend, T10 hand back own jobs, T12 by force: the writes of the process that holds a job, without an outcome.

Every statement names the attempt, so a process whose job was claimed again changes nothing: this is the fence. All of
them skip a row that another transaction locks, and report that: while a statement waited for the lock, the leases of
the other jobs would end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from esteira.db import Db
from esteira.record import AT, COUNTED, DUE_AGAIN, MINE, MINE_ALONE, NOTED, RUNNING, named
from esteira.record.rescue import MAX_SUSPICION, RESCUE_NOTED, REST, WORKER_LOST


@dataclass(frozen=True, kw_only=True, slots=True)
class Break:
    """Why a started attempt has no outcome: `reason` is for the event, `type` and `message` for the last error."""

    reason: str
    type: str
    message: str


_EXTEND = f"""
WITH {MINE}
UPDATE esteira_job j SET lease_until = clock_timestamp() + j.lease_s * interval '1 second'
WHERE j.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING j.id, j.cancel_requested_at IS NOT NULL, j.cancel_force
"""


def extend(db: Db, mine: Sequence[tuple[UUID, int]]) -> dict[UUID, tuple[bool, bool]]:
    """T4: extend the leases of own jobs; return (cancel requested, by force) for each that is still owned.

    A locked row does not delay the extension of the others: it is skipped, and is owned as long as the row shows it.
    """
    rows = db.fetch(_EXTEND, named(mine))
    extended = {row[0]: (row[1], row[2]) for row in rows}
    rest = [one for one in mine if one[0] not in extended]
    return {**extended, **still_mine(db, rest)} if rest else extended


_STILL_MINE = f"""
SELECT j.id, j.cancel_requested_at IS NOT NULL, j.cancel_force FROM esteira_job j
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = (%(attempts)s::int[])[{AT}] AND {RUNNING}
"""


def still_mine(db: Db, mine: Sequence[tuple[UUID, int]]) -> dict[UUID, tuple[bool, bool]]:
    """Return the same for the jobs that run under these attempts, also if their rows are locked; others are lost.

    This needs a second statement, after the one that skipped the row: the owner of the lock may have moved the job.
    """
    rows = db.fetch(_STILL_MINE, named(mine))
    return {row[0]: (row[1], row[2]) for row in rows}


_HAND_BACK = f"""
WITH {MINE},
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL, run_at = {DUE_AGAIN},
    solo = j.solo OR %(solo)s, interrupted = j.started_at IS NOT NULL,
    state = CASE WHEN j.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END,
    finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END
  WHERE j.id = ANY(ARRAY(SELECT id FROM locked))
  RETURNING j.id, j.attempt, j.type, j.queue, j.state),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), 'cancelled', attempt, '', '', '{{}}' FROM moved WHERE state = 'cancelled'),
{COUNTED}
SELECT 1 FROM moved
"""


def hand_back(db: Db, mine: Sequence[tuple[UUID, int]], *, solo: bool = False) -> int:
    """T10 for own jobs: move them back to the queue, and count nothing; with `solo` they run alone from now on.

    Return how many were moved. A row that another transaction locks is skipped, and must be handed back later.
    """
    if not mine:
        return 0
    return len(db.fetch(_HAND_BACK, {**named(mine), "solo": solo}))


_BREAK_OFF = f"""
WITH locked AS MATERIALIZED (
  SELECT j.id, j.worker, j.cancel_requested_at IS NOT NULL AS cancelled,
    j.suspicion + {WORKER_LOST} >= {MAX_SUSPICION} AS dead
  FROM esteira_job j WHERE j.id = %(id)s AND j.attempt = %(attempt)s AND {RUNNING}
  FOR NO KEY UPDATE OF j SKIP LOCKED),
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL, run_at = {DUE_AGAIN},
    state = CASE WHEN cancelled THEN 'cancelled' WHEN dead THEN 'dead' ELSE 'queued' END,
    finished_at = CASE WHEN cancelled OR dead THEN clock_timestamp() END,
    suspicion = j.suspicion + {WORKER_LOST},
    hold_until = CASE WHEN NOT (cancelled OR dead) THEN clock_timestamp()
      + (0.5 + random() / 2) * {REST} END,
    error = CASE WHEN dead AND NOT cancelled THEN jsonb_build_object('kind', 'lost', 'type', %(type)s::text,
      'message', %(why)s::text || ' The job now has ' || (j.suspicion + {WORKER_LOST})
        || ' points of suspicion. Retry it once the cause is found.') ELSE j.error END
  FROM locked WHERE j.id = locked.id AND j.id = %(id)s
  RETURNING j.id, j.attempt, j.type, j.queue, j.state, locked.worker),
{RESCUE_NOTED},
{COUNTED}
SELECT state FROM moved
"""


def break_off(db: Db, job_id: UUID, attempt: int, cause: Break) -> str | None:
    """T10 for a started attempt that has no outcome: one point of suspicion; return the state that the job is in now.

    The job runs again after a pause, longer each time, and is dead at the sixth point. "running": another transaction
    locks the row, so the write must be repeated. None: the attempt has already ended.
    """
    rows = db.fetch(
        _BREAK_OFF,
        {"id": job_id, "attempt": attempt, "reason": cause.reason, "type": cause.type, "why": cause.message},
    )
    if rows:
        return str(rows[0][0])
    return "running" if still_mine(db, [(job_id, attempt)]) else None


_KILL = f"""
WITH {MINE_ALONE},
moved AS (
  UPDATE esteira_job j SET state = 'cancelled', finished_at = clock_timestamp(), worker = NULL,
    lease_until = NULL
  FROM locked WHERE j.id = locked.id AND j.id = %(id)s
  RETURNING j.id, j.attempt, j.type, j.queue, j.state, j.cancel_by),
{COUNTED}
{NOTED}
SELECT id, clock_timestamp(), 'cancelled', attempt, '', cancel_by, '{{"force": true}}' FROM moved
RETURNING 1
"""


def kill(db: Db, job_id: UUID, attempt: int) -> bool:
    """T12 by force: running -> cancelled, written by the process that then ends; False if the row is locked."""
    rows = db.fetch(_KILL, {"id": job_id, "attempt": attempt})
    return bool(rows)
