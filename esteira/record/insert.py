"""T1 submit and T2 publish: the job row is the outbox entry.

If `published_at` is set by the insert, the submitter sends the hint after the commit. If it dies first, the keeper
finds that the row is published but its hint is missing, and publishes it again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import psycopg

from esteira import ids
from esteira.db import Db, Row
from esteira.job_types.registry import registry
from esteira.record import QUEUED, array, texts, uses

log = logging.getLogger("esteira.record")

SLICE = 1000
#: Errors that a row causes, not the server.
VALUE_ERRORS = (psycopg.DataError, psycopg.IntegrityError)


class Stored(NamedTuple):
    """The columns of a new row that the database has made."""

    created_at: datetime
    run_at: datetime
    expires_at: datetime | None
    params: str


@dataclass(kw_only=True, slots=True)
class Choices:
    """What the type and the options of a submit decide. Jobs that were submitted together share it if it is the same.

    `delay_s` and `expires_in_s` are added to the database's clock. If `publish`, the hints of due jobs are sent after
    the commit. `on_conflict` is for the submitter, and not stored.
    """

    type: str
    queue: str
    priority: int
    max_failures: int
    backoff_s: float
    lease_s: float
    timeout_s: float
    delay_s: float | None = None
    run_at: datetime | None = None
    expires_in_s: float | None = None
    schedule_id: int | None = None
    in_turn: bool = False
    by: str = ""
    account: str | None = None
    publish: bool = False
    on_conflict: str = "return"
    # For the hint: the process of a new job did not die in a batch, and the job was not interrupted.
    solo: ClassVar[bool] = False
    front: ClassVar[bool] = False
    task: ClassVar[None] = None

    @property
    def secret_names(self) -> str | None:
        """The parameters that are removed when the job ends (by a trigger of migration 0002); most types have none."""
        return ",".join(sorted(registry.secret_names(self.type))) or None


@dataclass(slots=True)
class NewJob:
    """A checked request, ready to store."""

    choices: Choices
    params: str
    unique_key: str | None = None
    tick_at: datetime | None = None
    #: Set when it is stored.
    id: UUID | None = None
    #: Set if the caller asks for it: a caller that shows the job need not read it.
    stored: Stored | None = None

    @property
    def type(self) -> str:
        return self.choices.type


# The stored fields of a NewJob and of its choices, each with the type of its SQL parameter; the database completes the
# id from its random half (see `esteira.ids`).
_OWN = {"half": "text", "params": "text", "unique_key": "text", "tick_at": "timestamptz"}
_CHOSEN = {
    "type": "text",
    "queue": "text",
    "priority": "smallint",
    "max_failures": "int",
    "backoff_s": "float8",
    "lease_s": "float8",
    "timeout_s": "float8",
    "delay_s": "float8",
    "run_at": "timestamptz",
    "expires_in_s": "float8",
    "schedule_id": "bigint",
    "in_turn": "boolean",
    "by": "text",
    "account": "text",
    "secret_names": "text",
    "publish": "boolean",
}
_COLUMNS = {**_OWN, **_CHOSEN}
_ALL_CHOSEN = attrgetter(*_CHOSEN)
_FIXED = {None: "NULL", True: "true", False: "false"}
# The clock is read once, so the jobs of a list are as old as each other, and in the order of their ids.
_INSERT = f"""
WITH m AS MATERIALIZED (
  SELECT c.now, {ids.first_half("c.now")} AS half FROM (SELECT clock_timestamp() AS now) AS c)
INSERT INTO esteira_job (id, created_at, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s,
    run_at, expires_at, unique_key, schedule_id, tick_at, in_turn, submitted_by, account, secret_names,
    published_at)
SELECT (m.half || v.half)::uuid, m.now, v.type, v.params::jsonb, v.queue, v.priority, v.max_failures,
    v.backoff_s, v.lease_s, v.timeout_s,
    coalesce(v.run_at, m.now + coalesce(v.delay_s, 0) * interval '1 second'),
    m.now + v.expires_in_s * interval '1 second',
    v.unique_key, v.schedule_id, v.tick_at, v.in_turn, v.by, v.account, v.secret_names,
    CASE WHEN v.publish AND coalesce(v.delay_s, 0) <= 0 AND coalesce(v.run_at <= m.now, true) THEN m.now END
FROM m CROSS JOIN (SELECT {{rows}}) AS v
"""
_LEAVE_OUT = "ON CONFLICT DO NOTHING"
_ANSWER = "RETURNING id, published_at IS NOT NULL"
_SHOWN = ", created_at, run_at, expires_at, params::text"


def insert(db: Db, jobs: Sequence[NewJob], *, shown: bool = False) -> dict[UUID, bool]:
    """T1: store new jobs; return the stored ids, each with whether its hint is to be sent now.

    The database completes the ids of the stored jobs by their time of creation, and they are set here (`esteira.ids`).
    Rows with a unique key that another job holds, or with an existing tick, are left out. With at most SLICE rows in a
    call, this is one quick statement; callers divide longer lists. If `shown`, the jobs get their stored columns.
    """
    with_files = uses.naming_files(jobs)
    if not with_files:
        return _insert(db, jobs, shown)
    with db.transaction():
        stored = _insert(db, jobs, shown)
        uses.note(db, [job for job in with_files if job.id in stored])
    return stored


def _insert(db: Db, jobs: Sequence[NewJob], shown: bool) -> dict[UUID, bool]:
    if not jobs:
        return {}
    halves, lists = ids.noises(len(jobs)), _lists(jobs)
    values = {**_values(jobs[0]), "half": f"{halves[0]:016x}", **lists}
    if lists:
        values["half"] = array(f"{half:016x}" for half in halves)
    # Without a key or a tick, no row can meet another one: then the database has less to do for each.
    may_meet = values["unique_key"] is not None or values["tick_at"] is not None
    fixed = tuple((name, value) for name, value in values.items() if isinstance(value, bool | None))
    end = f"{_LEAVE_OUT if may_meet else ''} {_ANSWER}{_SHOWN if shown else ''}"
    rows = db.fetch(_statement(tuple(lists), fixed, end), values)
    by_half = {row[0].int & ids.NOISE: row for row in rows}
    for job, half in zip(jobs, halves, strict=True):
        if row := by_half.get(half):
            job.id = row[0]
            job.stored = Stored(*row[2:]) if shown else None
    return {row[0]: row[1] for row in rows}


def _values(job: NewJob) -> dict[str, Any]:
    chosen = dict(zip(_CHOSEN, _ALL_CHOSEN(job.choices), strict=True))
    return {"params": job.params, "unique_key": job.unique_key, "tick_at": job.tick_at, **chosen}


def _lists(jobs: Sequence[NewJob]) -> dict[str, Any]:
    """Return the columns in which jobs may differ; what is the same for all is sent, and read, once."""
    if len(jobs) == 1:
        return {}
    lists: dict[str, Any] = {"params": texts([job.params for job in jobs])}
    keys, ticks = [job.unique_key for job in jobs], [job.tick_at for job in jobs]
    lists |= {} if _agree(keys, None) else {"unique_key": keys}
    lists |= {} if _agree(ticks, None) else {"tick_at": ticks}
    choices = [job.choices for job in jobs]
    if not _agree(choices, choices[0]):
        columns = zip(*map(_ALL_CHOSEN, choices), strict=True)
        lists |= {name: list(column) for name, column in zip(_CHOSEN, columns, strict=True)}
    return lists


def _agree(values: list[Any], value: object) -> bool:
    return values.count(value) == len(values)


@lru_cache(maxsize=256)
def _statement(lists: Collection[str], fixed: Collection[tuple[str, Any]], end: str) -> str:
    """Write the statement for jobs that may differ in these columns; for a single job there are none.

    The values of `fixed` are written into it: most are NULL, and the driver and the server handle each parameter.
    """
    listed = ("half", *lists) if lists else ()
    written = {name: _FIXED[value] for name, value in fixed}
    same = [
        f"{written.get(name, f'%({name})s')}::{kind} AS {name}"
        for name, kind in _COLUMNS.items()
        if name not in listed
    ]
    rows = ", ".join([*same, *(f"u.{name}" for name in listed)])
    if listed:
        arrays = ", ".join(f"%({name})s::{_COLUMNS[name]}[]" for name in listed)
        rows += f" FROM unnest({arrays}) AS u({', '.join(listed)})"
    return _INSERT.format(rows=rows) + end


def holder(db: Db, unique_key: str) -> UUID | None:
    """Return the waiting or running job that holds a unique key."""
    rows = db.fetch(
        "SELECT id FROM esteira_job WHERE unique_key = %(key)s AND state IN ('queued', 'running')",
        {"key": unique_key},
    )
    return rows[0][0] if rows else None


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
