"""T1 submit: the job row is the outbox entry.

If `published_at` is set by the insert, the submitter sends the hint after the commit. If it dies first, the keeper
finds that the row is published but its hint is missing, and publishes it again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from esteira import ids
from esteira.db import Db
from esteira.job_types.registry import registry
from esteira.record import array, texts, uses

log = logging.getLogger("esteira.record")

SLICE = 1000


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
