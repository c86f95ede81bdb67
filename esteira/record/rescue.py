"""T7, T8, T9, T10: move jobs back to the queue if their process is gone, or must end.

A job whose process died during a batch gets no points of suspicion, and runs alone from then on. A job that ran alone
gets points, and is dead at six: after three lost pool processes (+2, the job is the certain cause) or six lost workers
(+1, one of several suspects). From the second time on, the suspects of a lost worker wait for a random time, so that
they run apart, and the cause is found alone. A stop counts nothing, nor does a pool process that was ended on purpose.
A second process that rescues the same job finds it no longer running, and changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from esteira.db import Db
from esteira.db.walk import Walk, clock
from esteira.record import COUNTED, DUE_AGAIN, NOTED, RUNNING

MAX_SUSPICION = 6
PROCESS_LOST, WORKER_LOST, DRAINED = 2, 1, 0
LONGEST_REST_S = 30.0
#: The pause of a suspect before it runs again is a random part of this, which doubles with each point.
REST = f"least(power(2, j.suspicion), {LONGEST_REST_S}) * interval '1 second'"
MOST = 1000
#: How long a worker that starts or stops searches for jobs of its name; the leases of all others end by themselves.
PATIENCE_S = 1.0

#: Notes what became of the `moved` jobs whose attempts have no outcome.
RESCUE_NOTED = f"""noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'rescued' ELSE state END, attempt, worker, '',
    jsonb_build_object('reason', %(reason)s::text) FROM moved)"""

# Two ways to find running jobs: by key, and in a range of time by the index of claims.
_BY_KEY = f"{RUNNING} AND j.id = ANY(%(ids)s::uuid[])"
_CLAIMED = """j.state = 'running' AND j.claimed_at > to_timestamp(%(after)s::float8)
  AND j.claimed_at <= to_timestamp(%(until)s::float8)"""


def _rescue_where(which: str) -> str:
    """Return the statement that rescues the jobs for which a condition is true."""
    return f"""
WITH locked AS MATERIALIZED (
  SELECT j.ctid AS place, j.worker, j.cancel_requested_at IS NOT NULL AS cancelled,
    NOT j.batched AND %(count)s > 0 AND j.suspicion + %(count)s >= %(limit)s AS dead
  FROM esteira_job j WHERE {which}
  ORDER BY j.id LIMIT {MOST} FOR NO KEY UPDATE OF j SKIP LOCKED),
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL,
    state = CASE WHEN cancelled THEN 'cancelled' WHEN dead THEN 'dead' ELSE 'queued' END,
    finished_at = CASE WHEN cancelled OR dead THEN clock_timestamp() END,
    run_at = {DUE_AGAIN},
    suspicion = j.suspicion + CASE WHEN j.batched THEN 0 ELSE %(count)s END,
    solo = j.solo OR (j.batched AND %(count)s > 0),
    interrupted = NOT j.batched OR j.started_at IS NOT NULL,
    hold_until = CASE WHEN %(part)s AND j.suspicion > 0 AND NOT (cancelled OR dead) THEN clock_timestamp()
      + random() * {REST} END,
    error = CASE WHEN dead AND NOT cancelled THEN jsonb_build_object('kind', 'lost', 'type', 'ProcessLost',
      'message', 'The process that ran this job ended unexpectedly; the job now has ' || (j.suspicion + %(count)s)
        || ' points of suspicion. It may use too much memory or crash. Retry it once the cause is found.')
      ELSE j.error END
  FROM locked WHERE j.ctid = locked.place
  RETURNING j.id, j.attempt, j.type, j.queue, j.state, locked.worker),
{RESCUE_NOTED},
{COUNTED}
SELECT id, state FROM moved
"""


#: A worker may have had another name when a job began; an incarnation belongs to one process only.
_OF_INCARNATION = "right(j.worker, char_length(%(suffix)s)) = %(suffix)s"


def _rescue(db: Db, which: str, *, count: int, reason: str, **params: Any) -> dict[UUID, str]:
    asked = {
        "count": count,
        "limit": MAX_SUSPICION,
        "reason": reason,
        "part": count == WORKER_LOST,
        **params,
    }
    return {row[0]: row[1] for row in db.fetch(_rescue_where(which), asked)}


def process_lost(db: Db, delivery: str, ids: Sequence[UUID] | None = None) -> dict[UUID, str]:
    """T7: the pool process that ran this delivery is gone; `ids` are the jobs of its hint; only they are searched."""
    return _of_delivery(db, delivery, ids, count=PROCESS_LOST, reason="process lost")


_AT = "coalesce(%(at)s::timestamptz, clock_timestamp())"
# A lease that ends so late was given before the clock stepped back, and was not extended since.
_ENDED = f"""j.lease_s <= %(longest)s::float8 AND (j.lease_until < {_AT}
  OR j.lease_until > {_AT} + (j.lease_s + greatest(j.lease_s / 2, %(slack)s::float8)) * interval '1 second')"""


def leases_ended(
    db: Db,
    ids: Sequence[UUID] | None = None,
    *,
    at: datetime | None = None,
    longest_lease_s: float = math.inf,
    slack_s: float = 0,
) -> dict[UUID, str]:
    """T8: rescue jobs whose leases ended, at the moment and up to the lease length that `esteira.keeper.hold` allows.

    Only `ids` are searched; without them, all running jobs. `slack_s`: a step of the clock up to this length may have
    been missed.
    """
    asked: dict[str, Any] = {"at": at, "longest": longest_lease_s, "slack": slack_s}
    if ids is None:
        which, asked = f"{_CLAIMED} AND {_ENDED}", {**asked, "after": -math.inf, "until": math.inf}
    else:
        which, asked = f"{_BY_KEY} AND {_ENDED}", {**asked, "ids": list(ids)}
    return _rescue(db, which, count=WORKER_LOST, reason="lease ended", **asked)


def leases(db: Db, ids: Sequence[UUID]) -> dict[UUID, float]:
    """Return which of these jobs run, each with the time of the next check: the end of its lease."""
    rows = db.fetch(f"{_LEASES} WHERE {_BY_KEY}", {"ids": list(ids)})
    return {row[0]: row[1] for row in rows}


def claimed(db: Db, after: float, until: float) -> dict[UUID, float]:
    """Return the same for the jobs that were claimed after one moment and not after another, and still run."""
    rows = db.fetch(f"{_LEASES} WHERE {_CLAIMED}", {"after": after, "until": until})
    return {row[0]: row[1] for row in rows}


def could_extend(db: Db) -> None:
    """Take the lock that the extension of a lease needs, and change nothing; raises the error that it would get."""
    db.fetch("UPDATE esteira_job j SET lease_until = j.lease_until WHERE false")


# A lease that ends too late is read in each turn, until it can be decided.
_LEASES = """SELECT j.id, extract(epoch FROM CASE
  WHEN j.lease_until > clock_timestamp() + 1.5 * j.lease_s * interval '1 second' THEN clock_timestamp()
  ELSE j.lease_until END)::float8 FROM esteira_job j"""


def worker_restarted(db: Db, *, incarnation: str) -> dict[UUID, str]:
    """T9: rescue jobs of an earlier incarnation of this worker, whose process is known to be gone."""
    which, suffix = _OF_INCARNATION, f"/{incarnation}"
    return _of_worker(db, which, count=WORKER_LOST, reason="worker restarted", suffix=suffix)


def drained(db: Db, *, me: str) -> dict[UUID, str]:
    """T10: hand back the jobs of this worker, which must stop before they have ended; nothing is counted."""
    suffix = f"/{me.rpartition('/')[2]}"
    return _of_worker(db, _OF_INCARNATION, count=DRAINED, reason="drained", suffix=suffix)


def process_ended(db: Db, delivery: str, ids: Sequence[UUID] | None = None) -> dict[UUID, str]:
    """T10: hand back the jobs of a delivery whose pool process was ended on purpose; nothing is counted."""
    return _of_delivery(db, delivery, ids, count=DRAINED, reason="process ended")


def _of_delivery(db: Db, delivery: str, ids: Sequence[UUID] | None, **params: Any) -> dict[UUID, str]:
    if ids is None:
        return _of_worker(db, "j.delivery = %(delivery)s", delivery=delivery, **params)
    return _rescue(db, f"{_BY_KEY} AND j.delivery = %(delivery)s", ids=list(ids), delivery=delivery, **params)


def _of_worker(db: Db, which: str, **params: Any) -> dict[UUID, str]:
    """Search for a worker's jobs, latest claims first: the index may contain a million dead entries before them."""
    rescued: dict[UUID, str] = {}

    def visit(db: Db, after: float, until: float) -> bool:
        found = _rescue(db, f"{_CLAIMED} AND {which}", after=after, until=until, **params)
        rescued.update(found)
        return len(found) == MOST

    walk, now, began = Walk(visit), clock(db), time.monotonic()
    while not walk.been_through and time.monotonic() - began < PATIENCE_S:
        walk.step(db, now)
    return rescued
