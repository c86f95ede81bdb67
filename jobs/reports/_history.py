"""Read the jobs of a period: counts from the database, and rows, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.postgres.fields import ArrayField
from django.db.models import Avg, Count, DateTimeField, F, Func, IntegerField, Max, Q, QuerySet, Value
from django.db.models.fields.json import KeyTextTransform

from esteira import ids
from esteira.db import DjangoConnection
from esteira.job_types.request import PRIORITY_NAMES
from esteira.models import Job
from esteira.states import shown_state, tries

ROWS_AT_ONCE = 2000
LONGEST_TEXT = 300
#: The states in the groups of the chart.
GROUPS = {
    "succeeded": ("succeeded",),
    "failed": ("failed", "dead"),
    "cancelled or expired": ("cancelled", "expired"),
    "waiting or running": ("queued", "running"),
}


@dataclass(frozen=True, kw_only=True)
class Period:
    """Whole days in a time zone, but not after `now`, the time of the database."""

    first: date
    last: date
    zone: ZoneInfo
    now: datetime

    @property
    def start(self) -> datetime:
        return self.begin(self.first)

    @property
    def end(self) -> datetime:
        return min(self.begin(self.last + timedelta(days=1)), self.now)

    def begin(self, day: date) -> datetime:
        """Return the beginning of a day: after the gap if clocks skip midnight, at the first if there are two."""
        return datetime.combine(day, time(), self.zone).astimezone(UTC)

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    def local(self, moment: datetime | None) -> datetime | None:
        return moment and moment.astimezone(self.zone)

    def __str__(self) -> str:
        return f"{self.first} to {self.last} ({self.zone.key})"


def database_clock() -> datetime:
    moment: datetime = DjangoConnection().fetch("SELECT clock_timestamp()")[0][0]
    return moment


@dataclass(frozen=True, kw_only=True)
class TypeLine:
    """The numbers of one job type; times are in seconds, None if no job has succeeded."""

    type: str
    counts: tuple[int, ...]
    mean_s: float | None
    longest_s: float | None

    @property
    def jobs(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job as a line of a table. Texts are as stored, and not yet escaped for a spreadsheet."""

    id: str
    type: str
    state: str
    queue: str
    priority: str
    attempts: int
    tries: int
    max_tries: int
    submitted_by: str
    submitted: datetime
    started: datetime | None
    finished: datetime | None
    waited_s: float | None
    ran_s: float | None
    error: str


class History:
    """The jobs that were submitted in a period, of one type or of all."""

    def __init__(self, period: Period, job_type: str = "") -> None:
        self.period = period
        self.job_type = job_type

    def count(self) -> int:
        return self._jobs().count()

    def by_type(self) -> list[TypeLine]:
        """Return a line per job type, the busiest first."""
        ran = F("finished_at") - F("started_at")
        counts = {
            f"n{i}": Count("id", filter=Q(state__in=states)) for i, states in enumerate(GROUPS.values())
        }
        done = Q(state="succeeded")
        found: Any = self._jobs().values("type").order_by().annotate(
            **counts, mean=Avg(ran, filter=done), longest=Max(ran, filter=done)
        )  # fmt: skip
        lines = [
            TypeLine(
                type=line["type"],
                counts=tuple(line[f"n{i}"] for i in range(len(GROUPS))),
                mean_s=_seconds(line["mean"]),
                longest_s=_seconds(line["longest"]),
            )
            for line in found
        ]
        return sorted(lines, key=lambda line: (-line.jobs, line.type))

    def over_time(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return (label, count per group) for every day, or week, or month of the period, including empty ones.

        PostgreSQL's time zone data may be older or newer than Python's. So Python computes the beginnings of the days,
        and PostgreSQL only compares with them.
        """
        labels = self._buckets()
        begins = Value([self.period.begin(day) for day in labels], ArrayField(DateTimeField()))
        bucket = Func(F("created_at"), begins, function="width_bucket", output_field=IntegerField())
        found = (
            self._jobs().annotate(bucket=bucket).values("bucket", "state").order_by().annotate(n=Count("id"))
        )
        counts = [dict.fromkeys(GROUPS, 0) for _ in labels]
        group_of = {state: group for group, states in GROUPS.items() for state in states}
        for line in found:
            counts[line["bucket"] - 1][group_of[line["state"]]] += line["n"]
        return [
            (_label(day, self.period.days), tuple(n.values())) for day, n in zip(labels, counts, strict=True)
        ]

    def rows(self, *, most: int) -> Iterator[Row]:
        """Read at most so many jobs, newest first; a few thousand are in memory at a time."""
        found = self._jobs().annotate(said=KeyTextTransform("message", "error")).order_by("-id")
        values = found.values(*_COLUMNS, "said")[:most]
        return (self._row(line) for line in values.iterator(chunk_size=ROWS_AT_ONCE))

    def failures(self, *, most: int) -> list[Row]:
        """Return the newest jobs that failed permanently."""
        return [
            self._row(line)
            for line in self._jobs()
            .filter(state__in=GROUPS["failed"])
            .annotate(said=KeyTextTransform("message", "error"))
            .order_by("-id")
            .values(*_COLUMNS, "said")[:most]
        ]

    def _jobs(self) -> QuerySet[Job]:
        start, end = ids.lowest(self.period.start), ids.lowest(self.period.end)
        jobs = Job.objects.filter(id__gte=start, id__lt=end)  # ids are in the order of creation
        return jobs.filter(type=self.job_type) if self.job_type else jobs

    def _buckets(self) -> list[date]:
        """Return the first day of each bucket; the first bucket may begin before the period."""
        days = [self.period.first + timedelta(days=n) for n in range(self.period.days)]
        if len(days) <= 45:
            return days
        if len(days) <= 182:
            return sorted({day - timedelta(days=day.weekday()) for day in days})
        return sorted({day.replace(day=1) for day in days})

    def _row(self, line: dict[str, Any]) -> Row:
        period, started, finished = self.period, line["started_at"], line["finished_at"]
        state = shown_state(line["state"], failures=line["failures"], run_at=line["run_at"], now=period.now)
        return Row(
            id=str(line["id"]),
            type=line["type"],
            state=state,
            queue=line["queue"],
            priority=PRIORITY_NAMES[line["priority"]],
            attempts=line["attempt"],
            tries=tries(line["state"], line["failures"]),
            max_tries=line["max_failures"],
            submitted_by=line["submitted_by"][:LONGEST_TEXT],
            submitted=line["created_at"].astimezone(period.zone),
            started=period.local(started),
            finished=period.local(finished),
            waited_s=_seconds(started and started - line["created_at"]),
            ran_s=_seconds(started and finished and finished - started),
            error=(line["said"] or "")[:LONGEST_TEXT],
        )


_COLUMNS = (
    "id type state queue priority attempt failures max_failures submitted_by created_at run_at started_at finished_at"
).split()


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else max(0.0, round(span.total_seconds(), 3))


def _label(day: date, days: int) -> str:
    return f"{day:%Y-%m}" if days > 182 else f"{day:%m-%d}"
