"""Reports about the jobs themselves, for people who do not open the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import IO, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from esteira import Context, GiveUp, job
from esteira.errors import TooLarge
from jobs._lists import split_list
from jobs.reports._history import History, Period, database_clock
from jobs.reports._sheets import Xlsx, write_csv

MOST_DAYS = 366
#: More rows than a person reads, and files far below the size limit.
MOST_ROWS = 100_000
MOST_FAILURES = 50
CONTENT_TYPES = {
    "pdf": "application/pdf",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "csv": "text/csv; charset=utf-8",
}


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone; write a name such as UTC or America/Sao_Paulo.") from None


def _makes_a_period(last: date | None, info: ValidationInfo) -> date | None:
    """Refuse two days that contradict each other; an empty day is known only when the job runs."""
    first = info.data.get("first_day")
    if first is None or last is None:
        return last
    if first > last:
        raise ValueError(f"is before first_day, {first}; swap them.")
    if (last - first).days >= MOST_DAYS:
        raise ValueError(f"is more than {MOST_DAYS} days from first_day, {first}; choose a shorter period.")
    return last


Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2999, 12, 31))]


@job(retries=3, timeout=1800)
def job_history(
    ctx: Context,
    first_day: Annotated[
        Day | None, Field(title="First day", description="Empty: a week before the last day.")
    ] = None,
    last_day: Annotated[
        Day | None,
        Field(title="Last day", description="Empty: the day on which the job runs."),
        AfterValidator(_makes_a_period),
    ] = None,
    time_zone: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            title="Time zone",
            description="For the beginning of days, and for all times.",
        ),
        AfterValidator(_zone),
    ] = "UTC",
    job_type: Annotated[
        str,
        Field(
            max_length=120, title="Job type", description="Only this type, such as email.send. Empty: all."
        ),
    ] = "",
    formats: Annotated[
        tuple[Literal["pdf", "xlsx", "csv"], ...],
        BeforeValidator(split_list),
        Field(min_length=1, max_length=3, title="Formats"),
    ] = ("pdf", "xlsx", "csv"),
) -> dict[str, Any]:
    """Report the job history.

    It counts the jobs that were submitted in a period by type, day and state, lists them, and shows the failures. The
    PDF is for reading; XLSX and CSV have a line per job, for the newest 100,000. An account that may submit this type
    sees the jobs of all accounts: their types, states, times, submitters and errors.
    """
    history = History(_period(first_day, last_day, time_zone), job_type)
    report = _Report(ctx, history)
    writers: dict[str, Callable[[IO[bytes]], None]] = {
        "pdf": report.pdf,
        "xlsx": report.xlsx,
        "csv": report.csv,
    }
    files = []
    for kind in dict.fromkeys(formats):
        name = f"job-history-{history.period.first}-to-{history.period.last}.{kind}"
        try:
            with ctx.file(name, CONTENT_TYPES[kind]) as out:
                writers[kind](out)
        except TooLarge as error:
            raise GiveUp(f"{kind}: {error} Choose a shorter period or one job type.") from error
        files.append(name)
    return {"jobs": report.jobs, "listed": report.listed, "period": str(history.period), "files": files}


def _period(first: date | None, last: date | None, zone_name: str) -> Period:
    zone, now = ZoneInfo(zone_name), database_clock()
    last = last or now.astimezone(zone).date()
    first = first or last - timedelta(days=6)
    if first > last:
        raise GiveUp(f"first_day: {first} is after the last day, {last}; choose an earlier one.")
    if (last - first).days >= MOST_DAYS:
        raise GiveUp(f"first_day: {first} to {last} is more than {MOST_DAYS} days; choose a shorter period.")
    return Period(first=first, last=last, zone=zone, now=now)


class _Report:
    """The common data of the three formats: the counts, read once, and the rows, read again for each format."""

    def __init__(self, ctx: Context, history: History) -> None:
        ctx.progress(0, None, "Counting")
        self._ctx, self._history, self._period = ctx, history, history.period
        self._types = history.by_type()
        self._buckets = history.over_time()
        self.jobs = sum(line.jobs for line in self._types)
        self.listed = min(self.jobs, MOST_ROWS)

    def pdf(self, out: IO[bytes]) -> None:
        from jobs.reports._pages import write_pdf

        self._ctx.progress(0, None, "Writing PDF")
        failures = self._history.failures(most=MOST_FAILURES)
        write_pdf(out, self._period, self._note(), self._types, self._buckets, failures)

    def xlsx(self, out: IO[bytes]) -> None:
        book = Xlsx(out)
        book.summary(self._period, self._note(), self._types)
        book.over_time(self._buckets)
        book.jobs(self._rows("Writing XLSX"))
        book.close()

    def csv(self, out: IO[bytes]) -> None:
        write_csv(out, self._rows("Writing CSV"))

    def _rows(self, text: str) -> Any:
        return self._ctx.each(self._history.rows(most=MOST_ROWS), text, total=self.listed)

    def _note(self) -> str:
        what = f"of type {self._history.job_type} " if self._history.job_type else ""
        if not self.jobs:
            return f"No job {what}was submitted in this period."
        listed = f" The newest {self.listed:,} are listed." if self.listed < self.jobs else ""
        return f"{self.jobs:,} jobs {what}were submitted in this period.{listed}"
