"""Schedules: for every nominal tick exactly one job, or one recorded skip with its reason.

The nominal times follow from the schedule and the database's clock alone, and the schedule's row is locked while its
ticks are written, so any number of keepers, killed at any point, leave neither a gap nor a double.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.conf import settings

from esteira.cadence import Cadence
from esteira.db import Db
from esteira.errors import EsteiraError, UnknownJobType
from esteira.ids import uuid7
from esteira.params import check
from esteira.record.insert import NewJob, insert
from esteira.registry import PRIORITIES, JobType, registry

log = logging.getLogger("esteira.keeper")

MOST_A_TURN = 100


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """A schedule's row."""

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


def write_ticks(db: Db) -> bool:
    """Write what is due; return whether some schedule has more than one turn's worth."""
    more = False
    for row in db.fetch(
        f"SELECT clock_timestamp(), {_COLUMNS} FROM esteira_schedule WHERE enabled ORDER BY id"
    ):
        now, schedule = row[0], _scheduled(row[1:])
        try:
            if next(schedule.ticks(now), None) is not None:
                more = _write(db, schedule.id, now) or more
        except (EsteiraError, KeyError, ValueError) as error:
            log.error("schedule %s cannot be kept: %s", schedule.name, error)
    return more


def _scheduled(row: tuple[Any, ...]) -> Scheduled:
    return Scheduled(**dict(zip(Scheduled.__dataclass_fields__, row, strict=True)))


def _write(db: Db, schedule_id: int, now: datetime) -> bool:
    with db.transaction():
        rows = db.fetch(
            f"SELECT {_COLUMNS} FROM esteira_schedule WHERE id = %s AND enabled FOR NO KEY UPDATE SKIP LOCKED",
            [schedule_id],
        )
        if not rows:
            return False
        schedule = _scheduled(rows[0])
        try:
            kind = registry.get(schedule.type)
        except UnknownJobType:
            log.info("schedule %s waits for a keeper that knows %s", schedule.name, schedule.type)
            return False
        due = list(islice(schedule.ticks(now), MOST_A_TURN + 1))
        ticks, following = due[:MOST_A_TURN], due[MOST_A_TURN:]
        if not ticks:
            return False
        _store(db, schedule, kind, dict(_decide(db, schedule, ticks, following, now)))
        db.fetch("UPDATE esteira_schedule SET last_tick_at = %s WHERE id = %s", [ticks[-1], schedule.id])
    return bool(following)


def _decide(
    db: Db, schedule: Scheduled, ticks: list[datetime], following: list[datetime], now: datetime
) -> Iterator[tuple[datetime, str]]:
    """Pair each tick with the reason to skip it, or with nothing."""
    late = now - timedelta(seconds=schedule.grace_s)
    busy = schedule.overlap == "skip" and _is_open(db, schedule.id)
    for tick, after in zip(ticks, [*ticks[1:], *following, now][: len(ticks)], strict=True):
        if tick < late and not _runs_late(schedule.missed, after, late):
            yield tick, "missed"
        elif busy:
            yield tick, "overlap"
        else:
            busy = schedule.overlap == "skip"
            yield tick, ""


def _runs_late(missed: str, after: datetime, late: datetime) -> bool:
    """Of the ticks that were missed, "once" runs the last one only."""
    return missed == "all" or (missed == "once" and after >= late)


def _is_open(db: Db, schedule_id: int) -> bool:
    rows = db.fetch(
        "SELECT 1 FROM esteira_job WHERE schedule_id = %s AND state IN ('queued', 'running') LIMIT 1",
        [schedule_id],
    )
    return bool(rows)


def _store(db: Db, schedule: Scheduled, kind: JobType, decided: dict[datetime, str]) -> None:
    try:
        params, text = check(kind.model, schedule.params)
    except EsteiraError as error:
        log.error("schedule %s: its parameters are refused: %s", schedule.name, error)
        _skip(db, schedule, {tick: reason or "invalid" for tick, reason in decided.items()})
        return
    jobs = {tick: _job(schedule, kind, params, text, tick) for tick, reason in decided.items() if not reason}
    stored = insert(db, list(jobs.values())) if jobs else {}
    left_out = {tick: "unique" for tick, job in jobs.items() if job.id not in stored}
    _skip(db, schedule, {tick: reason for tick, reason in {**decided, **left_out}.items() if reason})


def _job(schedule: Scheduled, kind: JobType, params: Any, text: str, tick: datetime) -> NewJob:
    return NewJob(
        id=uuid7(),
        type=kind.name,
        params=text,
        queue=kind.queue,
        priority=PRIORITIES[kind.priority],
        max_failures=kind.retries + 1,
        backoff_s=kind.backoff_s,
        lease_s=kind.lease_s or settings.LEASE_SECONDS,
        timeout_s=kind.timeout_s,
        unique_key=f"{kind.name}:{kind.unique.format_map(dict(params))}" if kind.unique else None,
        schedule_id=schedule.id,
        tick_at=tick,
        in_turn=schedule.overlap == "queue",
        by=f"schedule {schedule.name}",
    )


def _skip(db: Db, schedule: Scheduled, reasons: dict[datetime, str]) -> None:
    if reasons:
        db.fetch(
            """INSERT INTO esteira_scheduleskip (schedule_id, tick_at, reason)
               SELECT %s, t, r FROM unnest(%s::timestamptz[], %s::text[]) AS v(t, r) ON CONFLICT DO NOTHING""",
            [schedule.id, list(reasons), list(reasons.values())],
        )
