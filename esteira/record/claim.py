"""T3 claim, T14 refuse, T15 expire: move a queued job to running, or leave it in the queue.

A hint may be a duplicate, late or wrong; a row that the claim's guard excludes is not claimed. The remaining rows of
the hint are then corrected: expired ones end, the others wait to be published again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from psycopg.errors import UniqueViolation

from esteira.db import ConnectionLost, Db
from esteira.record import AT, COUNTED, DUE_AGAIN, NOTED, QUEUED, RUNNING, array
from esteira.states import State, tries

#: The pause before a refused job is published again.
REFUSED_HOLD_S = 0.5
#: If every worker refuses the parameters for this long, the job fails.
REFUSED_FOR_S = 600.0
#: The largest number of jobs that one statement expires.
EXPIRE_MOST = 1000


class Claimed(NamedTuple):
    """A claimed job under its attempt number; its fields are what the claim returns, in this order."""

    id: UUID
    attempt: int
    failures: int
    max_failures: int
    type: str
    queue: str
    params: str
    timeout_s: float
    lease_s: float
    backoff_s: float
    cancelled: bool
    #: Its place in the hint, counted from 1.
    place: int
    #: The message of an adopted Celery task, and its id for its caller; None for a job of a `@job` type.
    message: bytes | None = None
    task_id: str | None = None

    @property
    def tries(self) -> int:
        """The number of the try that this attempt is."""
        return tries(State.RUNNING, self.failures)


_CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT j.ctid AS place FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND {QUEUED} AND j.run_at <= clock_timestamp()
    AND (j.expires_at IS NULL OR j.expires_at > clock_timestamp())
    AND (j.hold_until IS NULL OR j.hold_until <= clock_timestamp())
    AND NOT EXISTS (SELECT 1 FROM esteira_queue q WHERE q.name = j.queue AND q.paused_at IS NOT NULL)
    AND (NOT j.in_turn OR NOT EXISTS (
      SELECT 1 FROM esteira_job r WHERE r.schedule_id = j.schedule_id AND r.state = 'running' AND r.in_turn))
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED)
UPDATE esteira_job j SET state = 'running', attempt = j.attempt + 1, worker = %(worker)s, delivery = %(delivery)s,
  batched = %(batched)s, claimed_at = clock_timestamp(), started_at = NULL,
  lease_until = clock_timestamp() + j.lease_s * interval '1 second', hold_until = NULL,
  interrupted = false, progress_done = NULL, progress_total = NULL, progress_text = ''
FROM due WHERE j.ctid = due.place
RETURNING j.id, j.attempt, j.failures, j.max_failures, j.type, j.queue, j.params::text, j.timeout_s, j.lease_s,
  j.backoff_s, j.cancel_requested_at IS NOT NULL, {AT}, j.message, j.task_id
"""


def claim(db: Db, ids: Sequence[UUID | str], *, worker: str, delivery: str) -> list[Claimed]:
    """T3: claim the due jobs of a hint, in the hint's order; unpublish or expire the others."""
    asked = {"ids": array(ids), "worker": worker, "delivery": delivery, "batched": len(ids) > 1}
    try:
        rows = db.fetch(_CLAIM, asked)
    except UniqueViolation:
        # Two jobs of one "in turn" schedule were claimed at the same time: one runs, the other waits.
        if len(ids) > 1:
            return [job for one in ids for job in claim(db, [one], worker=worker, delivery=delivery)]
        rows = []
    if len(rows) < len(ids):
        have = {str(row[0]) for row in rows}
        with suppress(*ConnectionLost):  # the claimed jobs must run; the keeper finds the others
            unpublish_unclaimed(db, [one for one in ids if str(one) not in have])
    return sorted(map(Claimed._make, rows), key=attrgetter("place"))


_UNPUBLISH_UNCLAIMED = f"""
WITH locked AS MATERIALIZED (
  SELECT j.ctid AS place, j.expires_at <= clock_timestamp() AS over
  FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND {QUEUED} AND j.published_at IS NOT NULL
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED),
moved AS (
  UPDATE esteira_job j SET published_at = NULL,
    state = CASE WHEN locked.over THEN 'expired' ELSE 'queued' END,
    finished_at = CASE WHEN locked.over THEN clock_timestamp() END,
    hold_until = CASE WHEN locked.over THEN NULL
      WHEN %(hold)s > 0 OR j.in_turn THEN clock_timestamp()
        + greatest(%(hold)s, CASE WHEN j.in_turn THEN 1 ELSE 0 END) * interval '1 second'
      ELSE j.hold_until END
  FROM locked WHERE j.ctid = locked.place
  RETURNING j.type, j.queue, j.state),
{COUNTED}
SELECT 1 FROM moved
"""


def unpublish_unclaimed(db: Db, ids: Sequence[UUID | str], *, hold_s: float = 0) -> int:
    """T14 and T15 for the rows of a hint that were not claimed: end the expired ones, unpublish the others.

    Also for a type that this worker does not know (`hold_s` delays the next hint).
    """
    return len(db.fetch(_UNPUBLISH_UNCLAIMED, {"ids": list(ids), "hold": float(hold_s)}))


_REFUSE = f"""
WITH v AS (SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(reasons)s::text[])
           AS v(id, attempt, reason)),
locked AS MATERIALIZED (
  SELECT j.id, v.reason, j.cancel_requested_at IS NOT NULL AS cancelled,
    j.refused_since IS NULL AS first, coalesce(j.refused_since, clock_timestamp()) AS since,
    coalesce(j.refused_since < clock_timestamp() - %(give_up)s * interval '1 second', false) AS over
  FROM v JOIN esteira_job j ON j.id = v.id
  WHERE j.id = ANY(%(ids)s::uuid[]) AND {RUNNING} AND j.attempt = v.attempt
  ORDER BY j.id FOR NO KEY UPDATE OF j),
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL, started_at = NULL,
    run_at = {DUE_AGAIN}, refused_since = locked.since,
    state = CASE WHEN cancelled THEN 'cancelled' WHEN over THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN cancelled OR over THEN clock_timestamp() END,
    hold_until = CASE WHEN NOT (cancelled OR over)
                 THEN clock_timestamp() + %(hold)s * interval '1 second' END,
    error = CASE WHEN over AND NOT cancelled THEN jsonb_build_object('kind', 'refused',
      'type', 'InvalidParameters', 'message', locked.reason) ELSE j.error END
  FROM locked WHERE j.id = locked.id AND j.id = ANY(%(ids)s::uuid[])
  RETURNING j.id, j.attempt, j.type, j.queue, j.state, locked.reason, locked.first),
{COUNTED}
{NOTED}
SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'refused' ELSE state END, attempt, %(worker)s,
  '', jsonb_build_object('reason', reason) FROM moved WHERE first OR state <> 'queued'
RETURNING job_id
"""


def refuse(db: Db, jobs: Sequence[tuple[UUID, int, str]], *, worker: str) -> int:
    """T14 after the claim: this release's signature refuses the stored parameters (id, attempt, why).

    The job is published again after a pause, because another release may accept it; after ten minutes it fails, with an
    event. A long check may have been stored as the job's start; the function was not called, so the start is removed.
    """
    ids, attempts, reasons = zip(*jobs, strict=True)
    return len(
        db.fetch(
            _REFUSE,
            {
                "ids": list(ids),
                "attempts": list(attempts),
                "reasons": list(reasons),
                "worker": worker,
                "give_up": REFUSED_FOR_S,
                "hold": REFUSED_HOLD_S,
            },
        )
    )


_EXPIRE = f"""
WITH locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j
  WHERE j.state = 'queued' AND j.expires_at IS NOT NULL
    AND j.expires_at > to_timestamp(%(after)s::float8)
    AND j.expires_at <= (SELECT least(clock_timestamp(), to_timestamp(%(until)s::float8)))
  ORDER BY j.expires_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED),
moved AS (
  UPDATE esteira_job j SET state = 'expired', finished_at = clock_timestamp(), published_at = NULL
  WHERE j.id = ANY(ARRAY(SELECT id FROM locked)) RETURNING j.type, j.queue, j.state),
{COUNTED}
SELECT 1 FROM moved
"""


def expire(db: Db, *, after: float = -math.inf, until: float = math.inf, limit: int = EXPIRE_MOST) -> int:
    """T15: end queued jobs that expired after one moment and not after another (seconds since 1970)."""
    return len(db.fetch(_EXPIRE, {"after": after, "until": until, "limit": limit}))
