"""The report of the job history, from real rows to files that real readers open."""

from __future__ import annotations

import csv
import importlib.resources
import io
import tracemalloc
import zoneinfo
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from pypdf import PdfReader

from esteira import Cancelled, GiveUp, LocalContext, ids
from esteira.db import PrivateConnection
from esteira.errors import InvalidParameters
from esteira.files import open_file, open_result
from esteira.job_types.context import MemoryHost
from esteira.models import File, Job
from jobs import reports
from jobs.reports import _history, job_history
from jobs.reports._sheets import looks_like_formula

DAY = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HOSTILE = [
    "=1+1",
    '=HYPERLINK("http://x.example";"y")',
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "＝1",
    "﹦1",
    "\u2212" + "1+1",
    *(
        f"{unseen}=1+1"
        for unseen in "\u200b\ufeff\u00a0\u00ad\u2060\u200e\u202e\u180e\u3164\u034f\ufe0f\u2028\U000e0020"
    ),
    "\u200b \ufeff\t@SUM(A1)",
]


def made(n: int = 1, state: str = "succeeded", *, at: datetime = DAY, **fields) -> list[Job]:
    """Rows as they stand after such jobs have run, submitted a second apart."""
    ended = state not in ("queued", "running")
    started = state not in ("queued", "expired")
    error = {"kind": "exception", "type": "ValueError", "message": "it broke"}
    plain = {
        "type": "tests.work",
        "run_at": at,
        "error": error if state in ("failed", "dead") else None,
        "worker": "w" if state == "running" else None,
        "attempt": int(started),
        "failures": int(state == "failed"),
    }
    jobs = []
    for second in range(n):
        created = at + timedelta(seconds=second)
        jobs.append(
            Job(
                id=UUID(int=ids.lowest(created).int | uuid4().int & ids.NOISE),
                state=state,
                created_at=created,
                claimed_at=created if started else None,
                started_at=created + timedelta(seconds=1) if started else None,
                finished_at=created + timedelta(seconds=3) if ended else None,
                lease_until=created if state == "running" else None,
                **{**plain, **fields},
            )
        )
    return Job.objects.bulk_create(jobs)


def report(**params) -> tuple[dict, LocalContext]:
    ctx = LocalContext()
    period = {"first_day": date(2026, 3, 9), "last_day": date(2026, 3, 11)}
    return job_history.run_with(ctx, **{**period, **params}), ctx


def file_of(ctx: LocalContext, kind: str) -> bytes:
    (found,) = [data for name, data in ctx.files.items() if name.endswith(f".{kind}")]
    return found


def csv_lines(ctx: LocalContext) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file_of(ctx, "csv").decode("utf-8-sig"), newline="")))


def workbook(ctx: LocalContext) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(file_of(ctx, "xlsx")))


def pdf_text(ctx: LocalContext) -> str:
    pages = PdfReader(io.BytesIO(file_of(ctx, "pdf"))).pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def test_all_three_files_say_the_same_about_every_job(database):
    made(5)
    made(2, "failed")
    made(1, "cancelled", type="tests.other")

    result, ctx = report()

    assert result == {
        "jobs": 8,
        "listed": 8,
        "period": "2026-03-09 to 2026-03-11 (UTC)",
        "files": [f"job-history-2026-03-09-to-2026-03-11.{kind}" for kind in ("pdf", "xlsx", "csv")],
    }
    assert list(ctx.files) == result["files"]
    assert len(csv_lines(ctx)) == 8
    assert workbook(ctx)["Jobs"].max_row == 1 + 8
    assert "8 jobs were submitted in this period." in pdf_text(ctx)
    assert ctx.progress_calls[-1] == (8, 8, "Writing CSV")


def test_a_line_of_the_csv_tells_a_job_whole(database):
    (job,) = made(1, "failed", queue="mail", priority=3, submitted_by="ana", failures=2, attempt=3)

    _, ctx = report(formats=["csv"])

    assert csv_lines(ctx) == [
        {
            "id": str(job.id),
            "type": "tests.work",
            "state": "failed",
            "queue": "mail",
            "priority": "high",
            "attempts": "3",
            "tries": "2",
            "max_tries": "4",
            "submitted_by": "ana",
            "submitted": "2026-03-10T12:00:00.000+00:00",
            "started": "2026-03-10T12:00:01.000+00:00",
            "finished": "2026-03-10T12:00:03.000+00:00",
            "waited_s": "1.0",
            "ran_s": "2.0",
            "error": "it broke",
        }
    ]


def test_the_newest_job_comes_first(database):
    jobs = made(5)

    _, ctx = report(formats=["csv"])

    assert [UUID(line["id"]) for line in csv_lines(ctx)] == [job.id for job in reversed(jobs)]


def test_the_workbook_counts_by_type_and_draws_a_chart(database):
    made(4)
    made(1, "dead")
    made(2, "succeeded", type="tests.other")

    _, ctx = report(formats="xlsx")

    book = workbook(ctx)
    lines = [[cell.value for cell in row] for row in book["Summary"].iter_rows(min_row=6)]
    assert lines == [["tests.work", 4, 1, 0, 0, 5, 2, 2], ["tests.other", 2, 0, 0, 0, 2, 2, 2]]
    days = [[cell.value for cell in row] for row in book["Over time"].iter_rows()]
    assert days == [
        ["from", "succeeded", "failed", "cancelled or expired", "waiting or running"],
        ["03-09", 0, 0, 0, 0],
        ["03-10", 6, 1, 0, 0],
        ["03-11", 0, 0, 0, 0],
    ]
    (chart,) = book["Over time"]._charts
    assert len(chart.series) == 4


def test_times_in_the_workbook_are_times_of_the_zone_asked_for(database):
    made(1)

    _, ctx = report(formats=["xlsx"], time_zone="America/Sao_Paulo")

    row = dict(zip(*[[c.value for c in r] for r in workbook(ctx)["Jobs"].iter_rows()], strict=True))
    assert row["submitted"] == datetime(2026, 3, 10, 9, 0)  # noqa: DTZ001
    assert row["ran_s"] == 2


def test_a_day_is_a_day_of_the_zone_asked_for(database):
    """At 01:00 in UTC it is still the day before in São Paulo."""
    made(1, at=datetime(2026, 3, 12, 1, 0, tzinfo=UTC))

    utc, _ = report(formats=["csv"])
    local, ctx = report(formats=["csv"], time_zone="America/Sao_Paulo")

    assert (utc["jobs"], local["jobs"]) == (0, 1)
    assert csv_lines(ctx)[0]["submitted"] == "2026-03-11T22:00:00.000-03:00"


def test_the_pdf_shows_types_a_chart_and_what_failed(database):
    made(3)
    made(1, "failed", error={"message": "the printer is out of paper"})

    _, ctx = report(formats=["pdf"])

    text = pdf_text(ctx)
    assert "Job history" in text
    assert "tests.work" in text
    assert "03-10" in text
    assert "the printer is out of paper" in text
    told = PdfReader(io.BytesIO(file_of(ctx, "pdf"))).metadata
    assert told is not None
    assert told.title == "Job history 2026-03-09 to 2026-03-11"


@pytest.mark.parametrize("days", [1, 14, 45, 46, 100, 182, 183, 366])
def test_the_chart_fits_any_period(database, days):
    made(3)
    made(2, "failed", at=DAY - timedelta(days=days - 1))

    result, ctx = report(first_day=DAY.date() - timedelta(days=days - 1), last_day=DAY.date())

    assert result["jobs"] == 5
    buckets = list(workbook(ctx)["Over time"].iter_rows(min_row=2, values_only=True))
    assert len(buckets) <= 45
    assert sum(sum(counts) for _, *counts in buckets) == 5
    assert "5 jobs" in pdf_text(ctx)


def test_a_period_without_jobs_still_makes_files_that_open(database):
    result, ctx = report()

    assert result["jobs"] == 0
    assert "No job was submitted in this period." in pdf_text(ctx)
    assert workbook(ctx)["Jobs"].max_row == 1
    assert csv_lines(ctx) == []


def test_without_days_it_is_the_last_week(database):
    now = datetime.now(UTC)
    made(1, at=now - timedelta(days=2))
    made(1, at=now - timedelta(days=8))

    result = job_history.run(formats=["csv"])

    assert result["jobs"] == 1


def test_one_job_type_alone_can_be_asked_for(database):
    made(2)
    made(3, type="tests.other")

    result, ctx = report(job_type="tests.other")

    assert result["jobs"] == 3
    assert {line["type"] for line in csv_lines(ctx)} == {"tests.other"}
    assert "3 jobs of type tests.other were submitted" in pdf_text(ctx)


@pytest.mark.parametrize(
    "state", ["queued", "running", "succeeded", "failed", "dead", "cancelled", "expired"]
)
def test_every_state_can_be_listed(database, state):
    made(1, state)

    _, ctx = report()

    assert [line["state"] for line in csv_lines(ctx)] == [state]
    assert workbook(ctx)["Jobs"]["C2"].value == state


def test_states_are_named_as_people_see_them(database):
    made(1, "queued", run_at=datetime(2199, 1, 1, tzinfo=UTC))
    made(1, "queued", run_at=datetime(2199, 1, 1, tzinfo=UTC), failures=1, attempt=1)

    _, ctx = report(formats=["csv"])

    assert sorted(line["state"] for line in csv_lines(ctx)) == ["retrying", "scheduled"]


def test_a_csv_says_that_it_is_utf_8_so_that_excel_shows_every_script(database):
    made(1, "failed", error={"message": "ação 世界"})

    _, ctx = report(formats=["csv"])

    data = file_of(ctx, "csv")
    assert data.startswith(b"\xef\xbb\xbfid,type,")
    assert data.count(b"\xef\xbb\xbf") == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_looks_like_a_formula_is_no_formula(database, text):
    made(1, "failed", type=text, queue=text, submitted_by=text, error={"message": text})

    _, ctx = report()

    (line,) = csv_lines(ctx)
    assert [line[name] for name in ("type", "queue", "submitted_by", "error")] == [f"'{text}"] * 4
    book = workbook(ctx)
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert not [cell.coordinate for cell in cells if cell.data_type == "f" or cell.hyperlink]
    said = [cell for cell in cells if cell.value == text]
    assert len(said) == 5
    assert all(cell.quotePrefix for cell in said)


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b> & <i>not</i>",
        '<img src="file:///etc/hostname"/>',
        '<para><font name="Nowhere">x',
        "]]> </para>",
        "<a href='http://x.example'>x</a>",
    ],
)
def test_markup_in_a_text_is_shown_and_not_obeyed(database, text):
    made(1, "failed", type=text, error={"message": text})

    _, ctx = report(formats=["pdf"])

    assert text.replace(" ", "") in pdf_text(ctx).replace(" ", "")
    assert not PdfReader(io.BytesIO(file_of(ctx, "pdf"))).pages[0].get("/Annots")


def test_every_script_is_in_the_tables_and_what_paper_cannot_show_is_replaced(database):
    text = 'ação 世界 🎉 \u202ertl, "quoted", line\nbreak\x01'
    made(1, "failed", error={"message": text})

    _, ctx = report()

    assert csv_lines(ctx)[0]["error"] == text
    assert workbook(ctx)["Jobs"]["O2"].value == text.replace("\x01", "_x0001_").replace("\n", "\n")
    assert "ação ?? ?" in pdf_text(ctx)


def test_a_long_text_is_cut(database):
    made(1, "failed", error={"message": "x" * 4000}, submitted_by="y" * 4000)

    _, ctx = report()

    (line,) = csv_lines(ctx)
    assert len(line["error"]) == len(line["submitted_by"]) == 300
    assert "x" * 20 in pdf_text(ctx)


def test_many_types_do_not_make_the_pdf_longer_than_it_says(database):
    for n in range(60):
        made(1, type=f"tests.type_{n:02}")

    _, ctx = report(formats=["pdf", "xlsx"])

    assert "… and 20 more types" in pdf_text(ctx)
    assert workbook(ctx)["Summary"].max_row == 5 + 60


def test_more_jobs_than_fit_are_counted_but_not_listed(database, monkeypatch):
    monkeypatch.setattr(reports, "MOST_ROWS", 10)
    jobs = made(25)

    result, ctx = report()

    assert (result["jobs"], result["listed"]) == (25, 10)
    assert [UUID(line["id"]) for line in csv_lines(ctx)] == [job.id for job in jobs[:14:-1]]
    assert "The newest 10 are listed." in pdf_text(ctx)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_memory_does_not_grow_with_the_number_of_jobs(database, monkeypatch, kind):
    monkeypatch.setattr(_history, "ROWS_AT_ONCE", 200)
    peaks = []
    for many in (500, 2000):
        made(many)
        tracemalloc.start()
        _, ctx = report(formats=[kind])
        kept = len(file_of(ctx, kind))  # in memory only because the context is local
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * kept)
        tracemalloc.stop()

    assert peaks[1] - peaks[0] < 512 * 1024


class DatabaseFiles(MemoryHost):
    """Writes result files where a worker writes them: in chunks, into a stream that cannot go back."""

    def __init__(self, job: Job, core: PrivateConnection):
        super().__init__()
        self.job, self.core = job, core

    def file(self, name, content_type):
        return open_result(self.job.id, 1, name, content_type, db=self.core)


@pytest.mark.slow
def test_files_stored_in_the_database_open_too(database, core):
    (job,) = made(1)
    made(3000)
    ctx = LocalContext()
    ctx.host = DatabaseFiles(job, core)

    result = job_history.run_with(ctx, first_day="2026-03-10", last_day="2026-03-10")

    File.objects.update(attached_at=datetime.now(UTC))
    stored = {file.content_type: open_file(file.id).read() for file in File.objects.all()}
    assert result["jobs"] == 3001
    assert "3,001 jobs" in PdfReader(io.BytesIO(stored["application/pdf"])).pages[0].extract_text()
    assert stored["text/csv; charset=utf-8"].count(b"\r\n") == 3002
    book = openpyxl.load_workbook(io.BytesIO(stored[reports.CONTENT_TYPES["xlsx"]]))
    assert book["Jobs"].max_row == 3002


class CancelledInTheMiddle(MemoryHost):
    def progress(self, done, total, text):
        super().progress(done, total, text)
        self.cancelled = text == "Writing CSV"


def test_a_cancelled_report_stops_while_it_reads(database):
    made(50)
    ctx = LocalContext()
    ctx.host = CancelledInTheMiddle()

    with pytest.raises(Cancelled):
        job_history.run_with(ctx, first_day="2026-03-10", last_day="2026-03-10")
    assert [name.rpartition(".")[2] for name in ctx.files] == ["pdf", "xlsx"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"first_day": "yesterday"}, "first_day"),
        ({"first_day": "1999-12-31"}, "first_day"),
        ({"last_day": "3000-01-01"}, "last_day"),
        ({"last_day": 17}, "last_day"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"time_zone": "America"}, "time_zone"),
        ({"time_zone": ""}, "time_zone"),
        ({"formats": []}, "formats"),
        ({"formats": ["doc"]}, "formats/0"),
        ({"formats": "pdf,doc"}, "formats/1"),
        ({"job_type": "x" * 121}, "job_type"),
        ({"month": 3}, "month"),
    ],
)
def test_wrong_parameters_are_refused_and_named(params, field):
    with pytest.raises(InvalidParameters, match=f"#/params/{field}:"):
        job_history.run(**params)


@pytest.mark.parametrize(
    ("first", "last", "detail"),
    [
        ("2026-03-11", "2026-03-09", "is before first_day, 2026-03-11; swap them."),
        (
            "2025-01-01",
            "2026-03-09",
            "is more than 366 days from first_day, 2025-01-01; choose a shorter period.",
        ),
    ],
)
def test_days_that_make_no_period_are_refused_at_the_submit(database, first, last, detail):
    with pytest.raises(InvalidParameters) as refused:
        job_history.submit(first_day=first, last_day=last)

    assert [(one.pointer, one.detail) for one in refused.value.mistakes] == [("#/params/last_day", detail)]
    assert not Job.objects.exists()


def test_a_longest_period_and_a_single_day_are_fine(database):
    longest = report(first_day="2025-03-10", last_day="2026-03-10", formats=["csv"])[0]
    shortest = report(first_day="2026-03-10", last_day="2026-03-10", formats=["csv"])[0]

    assert (longest["jobs"], shortest["jobs"]) == (0, 0)


def test_a_first_day_that_has_not_come_when_the_job_runs_fails_with_the_way_out(database):
    """An empty last day is the day of the run, which no submit knows."""
    with pytest.raises(
        GiveUp, match="first_day: 2999-01-01 is after the last day, .*; choose an earlier one"
    ):
        report(first_day="2999-01-01", last_day=None)


def test_a_first_day_long_ago_without_a_last_one_fails_with_the_way_out(database):
    with pytest.raises(GiveUp, match="more than 366 days"):
        report(first_day="2001-01-01", last_day=None)


def test_the_days_of_a_clock_change_are_whole_days(database):
    """On 29 March 2026 Berlin's day has 23 hours."""
    zone = ZoneInfo("Europe/Berlin")
    made(1, at=datetime(2026, 3, 29, 0, 0, tzinfo=zone))
    made(1, at=datetime(2026, 3, 29, 23, 59, tzinfo=zone))
    made(1, at=datetime(2026, 3, 30, 0, 0, tzinfo=zone))

    result, _ = report(
        first_day="2026-03-29", last_day="2026-03-29", time_zone="Europe/Berlin", formats=["csv"]
    )

    assert result["jobs"] == 2


@pytest.fixture
def own_zone(tmp_path):
    """Python's data say that Berlin's clocks are those of Kiritimati, 14 hours ahead; PostgreSQL's say what is true."""
    berlin = tmp_path / "Europe" / "Berlin"
    berlin.parent.mkdir()
    usual = zoneinfo.TZPATH
    data = importlib.resources.files("tzdata.zoneinfo.Pacific").joinpath("Kiritimati").read_bytes()
    berlin.write_bytes(data)
    zoneinfo.reset_tzpath([str(tmp_path)])
    ZoneInfo.clear_cache()
    yield "Europe/Berlin"
    zoneinfo.reset_tzpath(usual)
    ZoneInfo.clear_cache()


@pytest.mark.parametrize("days", [1, 2, 100, 366])
def test_days_are_pythons_where_postgresql_knows_other_ones(database, own_zone, days):
    zone = ZoneInfo(own_zone)
    last = date(2026, 3, 11)
    first = last - timedelta(days=days - 1)
    made(1, at=datetime.combine(first, time(), zone))
    made(2, at=datetime.combine(last, time(23, 59), zone))

    result, ctx = report(first_day=first, last_day=last, time_zone=own_zone, formats=["xlsx", "csv", "pdf"])

    buckets = list(workbook(ctx)["Over time"].iter_rows(min_row=2, values_only=True))
    counts = [sum(numbers) for _, *numbers in buckets]
    assert result["jobs"] == 3
    assert counts == ([3] if days == 1 else [1, *([0] * (len(counts) - 2)), 2])
    assert {line["submitted"][:10] for line in csv_lines(ctx)} == {str(first), str(last)}


@pytest.mark.parametrize(
    ("zone_name", "day"),
    [
        ("America/Sao_Paulo", date(2017, 10, 15)),  # begins at 01:00
        ("America/Havana", date(2025, 11, 2)),  # has its first hour twice
        ("Pacific/Apia", date(2011, 12, 30)),  # was left out
    ],
)
def test_a_day_without_a_midnight_or_with_two_is_counted_once(database, zone_name, day):
    zone = ZoneInfo(zone_name)
    moments = [datetime.combine(day, time(), UTC) + timedelta(hours=h) for h in range(-24, 49)]
    for moment in moments:
        made(1, at=moment)
    days = (day - timedelta(days=1), day + timedelta(days=1))
    wanted = Counter(m.astimezone(zone).date() for m in moments)

    result, ctx = report(first_day=days[0], last_day=days[1], time_zone=zone_name)

    buckets = list(workbook(ctx)["Over time"].iter_rows(min_row=2, values_only=True))
    counted = {label: sum(numbers) for label, *numbers in buckets}
    expected = {f"{d:%m-%d}": wanted[d] for d in (days[0], day, days[1])}
    assert counted == expected
    assert result["jobs"] == sum(expected.values())


@pytest.mark.parametrize("text", [*HOSTILE, "\x01=1", "\x1b=1", "\x85=1"])
def test_formulas_are_recognised(text):
    assert looks_like_formula(text)


@pytest.mark.parametrize(
    "text", ["", "a=1", "tests.work", "it broke: -1", "'=1", "1", "\u200ba=1", "名 -1", "e\u0301=1"]
)
def test_ordinary_texts_are_left_alone(text):
    assert not looks_like_formula(text)


def test_every_parameter_has_a_title():
    assert all(p.get("title") for p in job_history.schema()["properties"].values())
