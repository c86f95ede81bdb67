"""T7, T8, T9, T10: jobs whose process is gone, or must go, return to the queue.

What died with others in a batch is suspected of nothing and runs alone from then on; what died alone gathers
suspicion, and at six it is dead: three lost pool processes (+2, the culprit is certain) or six lost workers (+1, one
of several suspects). Suspects of a lost worker rest for a random moment from the second time on: the culprit and its
neighbours part, so that it dies alone. A drain counts nothing. Whoever comes second finds the job no longer running
and changes nothing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from esteira.db import Db
from esteira.record import COUNTED

MAX_SUSPICION = 6
PROCESS_LOST, WORKER_LOST, DRAINED = 2, 1, 0
LONGEST_REST_S = 30.0

_RESCUE = f"""
WITH locked AS MATERIALIZED (
  SELECT j.id, j.worker, j.cancel_requested_at IS NOT NULL AS cancelled,
    NOT j.batched AND %(count)s > 0 AND j.suspicion + %(count)s >= %(limit)s AS dead
  FROM esteira_job j WHERE j.state = 'running' AND {{which}}
  ORDER BY j.id LIMIT 1000 FOR NO KEY UPDATE OF j SKIP LOCKED),
moved AS (
  UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL,
    state = CASE WHEN cancelled THEN 'cancelled' WHEN dead THEN 'dead' ELSE 'queued' END,
    finished_at = CASE WHEN cancelled OR dead THEN clock_timestamp() END,
    suspicion = j.suspicion + CASE WHEN j.batched THEN 0 ELSE %(count)s END,
    solo = j.solo OR (j.batched AND %(count)s > 0),
    hold_until = CASE WHEN %(part)s AND j.suspicion > 0 AND NOT (cancelled OR dead) THEN clock_timestamp()
      + random() * least(power(2, j.suspicion), %(longest_rest)s) * interval '1 second' END,
    error = CASE WHEN dead AND NOT cancelled THEN jsonb_build_object('kind', 'lost', 'type', 'ProcessLost',
      'message', 'The process that ran this job ended without a word, ' || (j.suspicion + %(count)s)
        || ' points of suspicion; it may use too much memory or crash. Retry it once the cause is found.')
      ELSE j.error END
  FROM locked WHERE j.id = locked.id AND j.id = ANY(ARRAY(SELECT id FROM locked))
  RETURNING j.id, j.attempt, j.type, j.queue, j.state, locked.worker),
noted AS (
  INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
  SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'rescued' ELSE state END, attempt, worker, '',
    jsonb_build_object('reason', %(reason)s::text) FROM moved),
{COUNTED}
SELECT id, state FROM moved
"""

#: A worker may have had another name when a job began; an incarnation is one process's for ever.
_OF_INCARNATION = "right(j.worker, char_length(%(suffix)s)) = %(suffix)s"


def _rescue(db: Db, which: str, *, count: int, reason: str, **params: Any) -> dict[UUID, str]:
    asked = {
        "count": count,
        "limit": MAX_SUSPICION,
        "reason": reason,
        "part": count == WORKER_LOST,
        "longest_rest": LONGEST_REST_S,
        **params,
    }
    return {row[0]: row[1] for row in db.fetch(_RESCUE.format(which=which), asked)}


def process_lost(db: Db, delivery: str) -> dict[UUID, str]:
    """T7: the pool process that ran this delivery is gone."""
    return _rescue(
        db, "j.delivery = %(delivery)s", count=PROCESS_LOST, reason="process lost", delivery=delivery
    )


def leases_ended(db: Db) -> dict[UUID, str]:
    """T8: nobody extended these leases; call it only while no sweep hold is in force."""
    return _rescue(db, "j.lease_until < clock_timestamp()", count=WORKER_LOST, reason="lease ended")


def worker_restarted(db: Db, *, incarnation: str) -> dict[UUID, str]:
    """T9: jobs of an earlier incarnation of this worker, whose process is known to be gone."""
    return _rescue(
        db, _OF_INCARNATION, count=WORKER_LOST, reason="worker restarted", suffix=f"/{incarnation}"
    )


def drained(db: Db, *, me: str) -> dict[UUID, str]:
    """T10: this worker must go before its jobs are done; nothing is counted."""
    return _rescue(db, _OF_INCARNATION, count=DRAINED, reason="drained", suffix=f"/{me.rpartition('/')[2]}")


def process_ended(db: Db, delivery: str) -> dict[UUID, str]:
    """T10: somebody ended the pool process that ran this delivery on purpose; nothing is counted."""
    return _rescue(db, "j.delivery = %(delivery)s", count=DRAINED, reason="process ended", delivery=delivery)
