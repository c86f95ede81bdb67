"""Schedules: for every nominal tick exactly one job, or one recorded skip with its reason.

The nominal times depend only on the schedule and the database's clock, and the schedule's row is locked while its ticks
are written, so any number of keepers, killed at any point, leave neither a gap nor a duplicate.

Each schedule is processed separately, in a transaction with short lock waits. Any failure of one schedule (an exception
from a type's own code, a key that another open transaction locks, an unreadable row) is stored with it, affects no
other schedule and loses no tick: its last tick stays unchanged, and it is tried again after a growing pause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from esteira.db import BUSY, Db
from esteira.errors import EsteiraError, UnknownJobType
from esteira.job_types.checking import check
from esteira.job_types.registry import JobType, registry
from esteira.job_types.schedule import Cadence
from esteira.job_types.unique_key import unique_key
from esteira.keeper import own_code
from esteira.keeper.declared import LOCK_WAIT
from esteira.keeper.turns import is_absence, said
from esteira.record.insert import NewJob, insert
from esteira.submit import choices_of

log = logging.getLogger("esteira.keeper")

MOST_A_TURN = 100
#: After this time the other steps of the keeper run; the schedules that are due longest come first.
BOX_S = 1.0
#: The pause after a failure doubles from one second up to this; a lock is soon released.
LONGEST_PAUSE_S, LONGEST_BUSY_S = 300.0, 5.0
#: A last tick further in the future than this was written by a clock that was ahead; the schedule does not wait for it.
AHEAD_S = 2.0
#: No grace period is longer; a larger number would exceed the calendar.
LONGEST_GRACE_S = 10 * 366 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Due:
    """The columns that the keeper reads of each schedule; if `astray`, its moments are impossible and read as None."""

    id: int
    name: str
    cron: str
    tz: str
    every_s: float
    astray: bool
    anchor_at: datetime | None
    last_tick_at: datetime | None

    def ticks(self, now: datetime) -> Iterator[datetime]:
        assert self.anchor_at is not None
        assert self.last_tick_at is not None
        cadence = Cadence(cron=self.cron, tz=self.tz, every_s=self.every_s)
        return cadence.ticks(self.last_tick_at, now, self.anchor_at)


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A schedule's row, locked."""

    id: int
    name: str
    type: str
    params: Any
    cron: str
    tz: str
    every_s: float
    overlap: str
    missed: str
    grace_s: float
    anchor_at: datetime
    last_tick_at: datetime

    def ticks(self, now: datetime) -> Iterator[datetime]:
        cadence = Cadence(cron=self.cron, tz=self.tz, every_s=self.every_s)
        return cadence.ticks(self.last_tick_at, now, self.anchor_at)


_COLUMNS = ", ".join(Scheduled.__dataclass_fields__)
#: No schedule existed before this moment, and Python cannot hold all moments that PostgreSQL can.
_EARLIEST = "timestamptz '1970-01-01Z'"
_CAN_BE = f"{{0}} BETWEEN {_EARLIEST} AND c.now + {AHEAD_S} * interval '1 second'"
_ANCHOR, _LAST = (_CAN_BE.format(f"s.{column}") for column in ("anchor_at", "last_tick_at"))
_SET_BACK = f"""
UPDATE esteira_schedule s SET anchor_at = CASE WHEN {_ANCHOR} THEN s.anchor_at ELSE c.now END,
  last_tick_at = CASE WHEN {_LAST} THEN s.last_tick_at ELSE c.now END,
  error = '', error_at = NULL, failures = 0, retry_at = NULL
FROM (SELECT clock_timestamp() AS now) AS c
WHERE s.id = (SELECT id FROM esteira_schedule WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)
  AND NOT ({_ANCHOR} AND {_LAST})
RETURNING 1
"""
# Schedules without failures that are due longest come first; failing ones get the rest of the time.
_DUE = f"""
SELECT c.now, s.id, s.name, s.cron, s.tz, s.every_s, NOT ({_ANCHOR} AND {_LAST}),
  CASE WHEN {_ANCHOR} THEN s.anchor_at END, CASE WHEN {_LAST} THEN s.last_tick_at END
FROM (SELECT clock_timestamp() AS now) AS c CROSS JOIN esteira_schedule s
WHERE s.enabled AND s.origin <> 'gone'
  AND (s.retry_at IS NULL OR s.retry_at NOT BETWEEN c.now AND c.now + {LONGEST_PAUSE_S} * interval '1 second')
ORDER BY s.retry_at NULLS FIRST, s.last_tick_at, s.id
"""


def write_ticks(db: Db) -> bool:
    """Write the due ticks; return whether there are more than fit into one turn."""
    began, more = time.monotonic(), False
    for now, *columns in db.fetch(_DUE):
        if time.monotonic() - began > BOX_S:
            return True
        one = Due(**dict(zip(Due.__dataclass_fields__, columns, strict=True)))
        try:
            more = _keep(db, one, now) or more
        except (
            Exception
        ) as error:  # a row or a type's code may fail in any way, and one schedule must not stop the others
            if is_absence(error):
                raise
            _note(db, one, error)
    return more


def _keep(db: Db, one: Due, now: datetime) -> bool:
    if one.astray:
        return _set_back(db, one)
    return next(one.ticks(now), None) is not None and _write(db, one.id, now)


def _set_back(db: Db, one: Due) -> bool:
    """Restart a schedule from now if its last tick lies in the future, or at an impossible moment.

    Ticks that were written while the clock was ahead become due once more; those that are already recorded are then
    left out.
    """
    if db.fetch(_SET_BACK, [one.id]):
        log.warning(
            "schedule %s: Its last tick lay in the future: the database's clock was ahead then."
            " It ticks again from now on.",
            one.name,
        )
    return False


def _note(db: Db, one: Due, error: Exception) -> None:
    """Store why a schedule's ticks could not be written, and when they are tried again."""
    busy = isinstance(error, BUSY)
    text = f"Another open transaction holds a lock that it needs ({said(error)})" if busy else said(error)
    noted = db.fetch(
        """UPDATE esteira_schedule SET error = %s, error_at = clock_timestamp(), failures = failures + 1,
             retry_at = clock_timestamp() + least(%s, power(2, least(failures, 16))) * interval '1 second'
           WHERE id = (SELECT id FROM esteira_schedule WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)
           RETURNING failures""",
        [text, LONGEST_BUSY_S if busy else LONGEST_PAUSE_S, one.id],
    )
    if noted:
        log.error(
            "the ticks of schedule %s could not be written (failure %s): %s", one.name, noted[0][0], text
        )


def _write(db: Db, schedule_id: int, now: datetime) -> bool:
    with db.transaction():
        rows = db.fetch(
            f"""SELECT set_config('lock_timeout', %s, true), {_COLUMNS} FROM esteira_schedule
                WHERE id = %s AND enabled AND origin <> 'gone' FOR NO KEY UPDATE SKIP LOCKED""",
            [LOCK_WAIT, schedule_id],
        )
        if not rows:
            return False
        schedule = Scheduled(**dict(zip(Scheduled.__dataclass_fields__, rows[0][1:], strict=True)))
        try:
            job_type = registry.get(schedule.type)
        except UnknownJobType:
            log.debug(
                "schedule %s waits for a keeper whose release has the job type %s",
                schedule.name,
                schedule.type,
            )
            return False
        due = list(islice(schedule.ticks(now), MOST_A_TURN + 1))
        ticks, following = due[:MOST_A_TURN], due[MOST_A_TURN:]
        if not ticks:
            return False
        refused = _store(db, schedule, job_type, dict(_decide(db, schedule, ticks, following, now)))
        db.fetch(
            """UPDATE esteira_schedule SET last_tick_at = %s, failures = 0, retry_at = NULL, error = %s,
                 error_at = CASE WHEN %s <> '' THEN clock_timestamp() END WHERE id = %s""",
            [ticks[-1], refused, refused, schedule.id],
        )
    return bool(following)


def _decide(
    db: Db, schedule: Scheduled, ticks: list[datetime], following: list[datetime], now: datetime
) -> Iterator[tuple[datetime, str]]:
    """Pair each tick with the reason to skip it, or with an empty text; leave out ticks that are already recorded."""
    recorded = _recorded(db, schedule.id, ticks)
    late = now - timedelta(seconds=min(schedule.grace_s, LONGEST_GRACE_S))
    busy = schedule.overlap == "skip" and _is_open(db, schedule.id)
    for tick, after in zip(ticks, [*ticks[1:], *following, now][: len(ticks)], strict=True):
        if tick in recorded:
            continue
        if tick < late and not _runs_late(schedule.missed, after, late):
            yield tick, "missed"
        elif busy:
            yield tick, "overlap"
        else:
            busy = schedule.overlap == "skip"
            yield tick, ""


def _recorded(db: Db, schedule_id: int, ticks: list[datetime]) -> set[datetime]:
    """Find the ticks that have a job or a skip from before the schedule was set back."""
    rows = db.fetch(
        """SELECT tick_at FROM esteira_job WHERE schedule_id = %(id)s AND tick_at = ANY(%(ticks)s::timestamptz[])
           UNION SELECT tick_at FROM esteira_scheduleskip
           WHERE schedule_id = %(id)s AND tick_at = ANY(%(ticks)s::timestamptz[])""",
        {"id": schedule_id, "ticks": ticks},
    )
    return {row[0] for row in rows}


def _runs_late(missed: str, after: datetime, late: datetime) -> bool:
    """Return whether a missed tick still runs: "once" runs the last of them only."""
    return missed == "all" or (missed == "once" and after >= late)


def _is_open(db: Db, schedule_id: int) -> bool:
    rows = db.fetch(
        "SELECT 1 FROM esteira_job WHERE schedule_id = %s AND state IN ('queued', 'running') LIMIT 1",
        [schedule_id],
    )
    return bool(rows)


def _store(db: Db, schedule: Scheduled, job_type: JobType, decided: dict[datetime, str]) -> str:
    """Store jobs and skips; return why the type refuses the schedule's parameters, or nothing."""
    try:
        params, text = own_code.run(lambda: check(job_type.model, schedule.params))
    except EsteiraError as error:
        log.error("schedule %s: its parameters are refused: %s", schedule.name, said(error))
        _skip(db, schedule, {tick: reason or "invalid" for tick, reason in decided.items()})
        return f"Its parameters are refused. {said(error)}"
    key = own_code.run(lambda: unique_key(job_type, params))
    choices = choices_of(
        job_type,
        by=f"schedule {schedule.name}",
        schedule_id=schedule.id,
        in_turn=schedule.overlap == "queue",
    )
    jobs = {tick: NewJob(choices, text, key, tick) for tick, reason in decided.items() if not reason}
    stored = insert(db, list(jobs.values())) if jobs else {}
    left_out = {tick: "unique" for tick, job in jobs.items() if job.id not in stored}
    _skip(db, schedule, {tick: reason for tick, reason in {**decided, **left_out}.items() if reason})
    return ""


def _skip(db: Db, schedule: Scheduled, reasons: dict[datetime, str]) -> None:
    if reasons:
        db.fetch(
            """INSERT INTO esteira_scheduleskip (schedule_id, tick_at, reason)
               SELECT %s, t, r FROM unnest(%s::timestamptz[], %s::text[]) AS v(t, r) ON CONFLICT DO NOTHING""",
            [schedule.id, list(reasons), list(reasons.values())],
        )
