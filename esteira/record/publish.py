"""T2 publish for interrupted jobs and jobs in turn, its undoing, and what all statements that publish share.

A row is marked first, and its hint is sent after the commit: if the process dies in between, the keeper finds that the
row is published but its hint is missing, and publishes it again. `esteira.record.waiting` publishes all other jobs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from esteira.db import Db, Row
from esteira.record import QUEUED

log = logging.getLogger("esteira.record")

#: Errors that a row causes, not the server.
VALUE_ERRORS = (psycopg.DataError, psycopg.IntegrityError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A row that was marked published, and whose hint must be sent now."""

    id: UUID
    type: str
    queue: str
    priority: int
    solo: bool
    front: bool
    timeout_s: float
    #: When it became due, in seconds since 1970.
    due_at: float
    #: For an adopted Celery task: its id, and its arguments as they may be shown.
    task: Mapping[str, str] | None = None


# The clock is read once, as the end of an index range: a comparison with the function itself would read all later rows.
DUE = """f.run_at <= (SELECT clock_timestamp())
      AND (f.hold_until IS NULL OR f.hold_until <= clock_timestamp())
      AND (f.expires_at IS NULL OR f.expires_at > clock_timestamp())"""

#: Marks those rows of `next`, which precedes it, that no other transaction locks.
MARKED = f"""locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j
  WHERE j.id = ANY(ARRAY(SELECT id FROM next)) AND {QUEUED} AND j.published_at IS NULL
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED),
marked AS (
  UPDATE esteira_job j SET published_at = clock_timestamp(), hold_until = NULL
  WHERE j.id = ANY(ARRAY(SELECT id FROM locked))
  RETURNING j.id, j.type, j.queue, j.priority, j.solo,
    j.interrupted, j.timeout_s, date_part('epoch', j.run_at) AS due_at,
    CASE WHEN j.message IS NOT NULL
      THEN (j.params || jsonb_build_object('id', j.task_id))::text END AS task)
SELECT * FROM marked
"""

# Interrupted jobs have a small index of their own: they do not wait behind their list or behind the backlog.
_NEXT_FRONT = f"""
  SELECT f.id FROM esteira_job f
  WHERE f.state = 'queued' AND f.published_at IS NULL AND f.interrupted AND NOT f.in_turn
    AND f.queue = %(queue)s AND f.type = ANY(%(types)s::text[]) AND {DUE}
  ORDER BY f.priority, f.run_at, f.id LIMIT %(limit)s
"""


# For jobs in turn, the planner must not use other indexes, and must not read all jobs of a schedule to sort them: a
# condition inside coalesce() matches no index, and the planner estimates that it is true for half of the rows. With
# some statistics it would otherwise read a whole backlog.
_SERVED = "coalesce(f.queue || ' ' || f.type = ANY(%(served)s::text[]), false)"
_DUE_IN_TURN = DUE.replace(
    "f.run_at <= (SELECT clock_timestamp())", "coalesce(f.run_at <= clock_timestamp(), false)"
)
# A schedule whose jobs run in turn has its oldest due job published, and only while none of its jobs is published or
# runs: the others wait without any cost. The jobs of a deleted schedule no longer run in turn.
_NEXT_TURNS = f"""
  SELECT picked.id FROM esteira_schedule s
  CROSS JOIN LATERAL (
    SELECT f.id FROM esteira_job f
    WHERE f.state = 'queued' AND f.published_at IS NULL AND f.in_turn AND f.schedule_id = s.id
      AND {_SERVED} AND {_DUE_IN_TURN}
    ORDER BY f.tick_at, f.id LIMIT 1) AS picked
  WHERE NOT EXISTS (SELECT 1 FROM esteira_job r WHERE r.schedule_id = s.id AND r.state = 'running' AND r.in_turn)
    AND NOT EXISTS (SELECT 1 FROM esteira_job o WHERE o.schedule_id = s.id AND o.state = 'queued' AND o.in_turn
      AND o.published_at IS NOT NULL)
  UNION ALL
  (SELECT f.id FROM esteira_job f
   WHERE f.state = 'queued' AND f.published_at IS NULL AND f.in_turn AND f.schedule_id IS NULL
     AND {_SERVED} AND {_DUE_IN_TURN}
   ORDER BY f.tick_at, f.id LIMIT %(limit)s)
"""


def publish_front(db: Db, *, queue: str, types: Sequence[str], limit: int) -> list[Published]:
    """T2: mark the due jobs of a queue published if their last attempt was interrupted."""
    return mark(db, _NEXT_FRONT, {"queue": queue, "types": list(types), "limit": limit})


def publish_turns(db: Db, *, served: Mapping[str, Sequence[str]], limit: int) -> list[Published]:
    """T2: mark the oldest due tick of each schedule that has none published or running; `served`: types by queue.

    Two keepers at once may publish two jobs of one schedule; the claim's guard lets only one of them run.
    """
    pairs = [f"{queue} {name}" for queue, types in served.items() for name in types]
    return mark(db, _NEXT_TURNS, {"served": pairs, "limit": limit})


def mark(db: Db, following: str, asked: Mapping[str, Any]) -> list[Published]:
    try:
        return as_published(db.fetch(f"WITH next AS ({following}),\n{MARKED}", asked))
    except VALUE_ERRORS:
        return mark_each(db, [row[0] for row in db.fetch(following, asked)])[0]


_MARK_ONE = f"WITH next AS (SELECT %(id)s::uuid AS id),\n{MARKED}"


def mark_each(db: Db, ids: Sequence[UUID]) -> tuple[list[Published], set[UUID]]:
    """Mark rows one by one; return also those that the database refuses to update, so that they fail alone."""
    found, refused = list[Row](), set[UUID]()
    for one in ids:
        try:
            found += db.fetch(_MARK_ONE, {"id": one})
        except VALUE_ERRORS as error:
            refused.add(one)
            log.error("job %s cannot be published: %s", one, error)
    return as_published(found), refused


def as_published(found: Sequence[Row]) -> list[Published]:
    """Return what `MARKED` returned, most urgent first."""
    rows = sorted(found, key=lambda row: (row[3], row[7]))
    return [
        Published(
            id=r[0],
            type=r[1],
            queue=r[2],
            priority=r[3],
            solo=r[4],
            front=r[5],
            timeout_s=r[6],
            due_at=r[7],
            task=json.loads(r[8]) if r[8] else None,
        )
        for r in rows
    ]


_UNPUBLISH = f"""
WITH locked AS MATERIALIZED (
  SELECT j.id FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND {QUEUED} AND j.published_at = ANY(%(stamps)s::timestamptz[])
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED)
UPDATE esteira_job j SET published_at = NULL
WHERE j.id = ANY(ARRAY(SELECT id FROM locked)) RETURNING 1"""


def unpublish(db: Db, ids: Sequence[UUID | str], stamps: Sequence[datetime | str]) -> int:
    """Undo T2: rows whose hint is missing wait to be published again, unless they moved since they were read."""
    try:
        return len(db.fetch(_UNPUBLISH, {"ids": list(ids), "stamps": list(stamps)}))
    except VALUE_ERRORS as error:
        if len(ids) > 1:
            return sum(unpublish(db, [one], [stamp]) for one, stamp in zip(ids, stamps, strict=True))
        log.error("job %s cannot be published again: %s", ids[0], error)
        return 0
