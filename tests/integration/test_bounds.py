"""Every door, and every value just outside its bounds: a clear refusal that names the field, and never an error page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from esteira import JobType, bounds, operate
from esteira.errors import EsteiraError, InvalidOption
from esteira.idempotency import once
from esteira.models import Job, Queue, Schedule
from esteira.registry import SubmitRequest, registry
from esteira.submit import submit
from tests.support.http import account, bearer, browser, declare_types, get, post, problem
from web.listing import Filters, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]

EAST, WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))
FAR = bounds.TEN_YEARS_S
NUL, HALF = "a\0b", "a\ud800b"
BAD_MOMENTS = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:59:59+01:00",
    (datetime.now(UTC) + timedelta(seconds=FAR + 3600)).isoformat(),
]
NO_MOMENTS = ["", "infinity", "2026-01-01", "2026-01-01T00:00:00", "now", 1e308, -1e18, True, [], {}]
BAD_SPANS = [-0.001, FAR + 1, 3e11, 1e308, 10**400, math.nan, math.inf, -math.inf, "many", [], {}]
BAD_TEXTS = ["", "x" * 201, "é" * 201, NUL, HALF, 5, True, [], {}]


@pytest.fixture
def types(job_types: None) -> None:
    declare_types()


@pytest.fixture
def note() -> JobType:
    return registry.get("t.note")


@pytest.fixture
def operator(database: None) -> Client:
    client = bearer("operator")
    client.raise_request_exception = False
    return client


def refused(response: Any) -> None:
    """The answer is a problem document which says what is wrong, and nothing was stored."""
    assert response.status_code in (400, 413, 422), (response.status_code, response.content[:300])
    assert problem(response)["detail"]
    assert not Job.objects.exists()


# --- HTTP -----------------------------------------------------------------------------------------------------------

OPTIONS = [
    *[("run_at", value) for value in [*BAD_MOMENTS, *NO_MOMENTS]],
    *[("delay", value) for value in BAD_SPANS],
    *[("expires_in", value) for value in [0, 0.0009, *BAD_SPANS]],
    *[("unique", value) for value in BAD_TEXTS],
    *[("queue", value) for value in ["nobody", "x" * 5000, NUL, HALF, 5, []]],
    *[("priority", value) for value in ["urgent", NUL, HALF, 5, []]],
    *[("on_conflict", value) for value in ["", "skip", NUL, HALF, 5, []]],
]


@pytest.mark.parametrize(("field", "value"), OPTIONS, ids=lambda value: repr(value)[:40])
def test_an_option_over_http_is_refused(operator: Client, field: str, value: Any) -> None:
    body = {"type": "t.note", "params": {"text": "x"}, "options": {field: value}}

    one = post(operator, "/jobs", body)
    many = post(operator, "/jobs/batch", {"jobs": [body]}, Idempotency_Key="k")

    refused(one)
    refused(many)
    assert field in one.content.decode()


@pytest.mark.parametrize("value", ["", NUL, HALF, "x" * 100_000, 5, [], {}, None])
def test_a_type_over_http_is_refused(operator: Client, value: Any) -> None:
    refused(post(operator, "/jobs", {"type": value, "params": {"text": "x"}}))


@pytest.mark.parametrize("value", ["", NUL, HALF, "x" * 100_000, math.nan, 10**400, [[]] * 40_000])
def test_a_parameter_over_http_is_refused(operator: Client, value: Any) -> None:
    refused(post(operator, "/jobs", {"type": "t.note", "params": {"text": value}}))
    refused(post(operator, "/jobs", {"type": "t.note", "params": {HALF: 1, "text": "x"}}))


QUERIES = [
    *[("created_after", value) for value in [*BAD_MOMENTS, "", "infinity", "2026-01-01", "+00:00"]],
    *[("limit", value) for value in ["0", "-1", "201", "1e9", "nan", "9" * 5000, "", "1.5"]],
    *[("type", value) for value in [NUL, "x" * 121, "\x00"]],
    *[("queue", value) for value in [NUL, "x" * 61]],
    *[("state", value) for value in [NUL, "done", "x" * 5000]],
    *[("cursor", value) for value in [NUL, "x", "é", "W10", "eyJhIjoxfQ"]],
]


@pytest.mark.parametrize(("name", "value"), QUERIES, ids=lambda value: repr(value)[:40])
def test_a_filter_over_http_is_refused(operator: Client, name: str, value: str) -> None:
    response = get(operator, f"/jobs?{urlencode({name: value})}")

    assert response.status_code == 422, response.content[:300]
    assert name in problem(response)["detail"]


@pytest.mark.parametrize("offset", ["+23:59", "-23:59", "+15:59", "+00:00:00.000001"])
def test_a_moment_in_an_odd_zone_is_a_moment(operator: Client, offset: str, note: JobType) -> None:
    """Python and JSON know offsets up to a day, PostgreSQL refuses those of 16 hours and more."""
    when = datetime.fromisoformat(f"2026-06-01T12:00:00{offset}")

    assert get(operator, f"/jobs?{urlencode({'created_after': when.isoformat()})}").status_code in (200, 422)
    stored = note.at(when).submit(text="x")

    assert Job.objects.get(pk=stored.id).run_at == when


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
def test_a_cursor_that_was_made_up_is_refused_or_leads_nowhere(operator: Client, at: str) -> None:
    import base64

    made = json.dumps(["older", at, "01a22658-1a60-714f-9fef-03603dd0ef51"]).encode()
    cursor = base64.urlsafe_b64encode(made).decode().rstrip("=")

    assert get(operator, f"/jobs?cursor={cursor}").status_code in (200, 422)


@pytest.mark.parametrize("name", ["", NUL, "x" * 5000, "../../etc/passwd", "\u202egnp.exe", "."])
@pytest.mark.parametrize("kind", ["", "x" * 500, "text/html; charset=\x01", "a/b/c"])
def test_an_upload_with_an_odd_name_is_stored_or_refused(operator: Client, name: str, kind: str) -> None:
    response = operator.post(f"/api/v1/files?{urlencode({'name': name})}", b"x", content_type=kind or "x/y")

    assert response.status_code in (201, 400, 422), response.content[:300]
    if response.status_code == 201:
        bounds.FILE_NAME.check("name", response.json()["name"])
        bounds.CONTENT_TYPE.check("content_type", response.json()["content_type"])


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\tb"])
def test_an_idempotency_key_is_refused(operator: Client, key: str) -> None:
    refused(post(operator, "/jobs", {"type": "t.note", "params": {"text": "x"}}, Idempotency_Key=key))


@pytest.mark.parametrize(
    "path", ["/job-types/a%00b", "/job-types/%ff%fe", f"/jobs/{'0' * 99}", "/jobs/a%00/files/b"]
)
def test_an_address_that_is_nothing_is_not_found(operator: Client, path: str) -> None:
    assert get(operator, path).status_code == 404


# --- Pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [q for q in QUERIES if q[0] in ("type", "queue", "state", "cursor")]
)
def test_a_filter_on_a_page_is_refused_with_a_page(database: None, name: str, value: str) -> None:
    client = browser("operator", raise_request_exception=False)

    response = client.get(f"/?{urlencode({name: value})}")

    assert response.status_code == 422
    assert "text/html" in response.headers["Content-Type"]


@pytest.mark.parametrize("cookie", ["a\0bcdefgh", '"\\000abcdefgh"', "x" * 4000, "\ud800"])
def test_an_odd_session_cookie_is_nobody(database: None, cookie: str) -> None:
    client = Client(raise_request_exception=False)

    response = client.get("/", headers={"Cookie": f"sessionid={cookie}"})

    assert response.status_code == 302


# --- Python ---------------------------------------------------------------------------------------------------------


def moments() -> list[Any]:
    """What a caller in Python may give for a moment, and JSON cannot say."""
    return [
        datetime(1, 1, 1, tzinfo=EAST),
        datetime.max.replace(tzinfo=WEST),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime.now(UTC) + timedelta(seconds=FAR + 3600),
        datetime(2026, 1, 1),  # noqa: DTZ001  (no zone is what is refused)
        "2026-01-01T00:00:00Z",
        1.5,
    ]


PYTHON: list[tuple[str, list[Any]]] = [
    ("run_at", moments()),
    ("delay_s", [*BAD_SPANS, timedelta.max, True]),
    ("expires_in_s", [0, *BAD_SPANS, timedelta.max, True]),
    ("unique", BAD_TEXTS),
    ("queue", [NUL, HALF, "nobody", 5, [], {}]),
    ("priority", [NUL, "urgent", 5, [], {}]),
    ("on_conflict", ["skip", None, 5, [], {}]),
]


@pytest.mark.parametrize(
    ("option", "value"),
    [(name, value) for name, values in PYTHON for value in values],
    ids=lambda value: repr(value)[:40] if not isinstance(value, int) else type(value).__name__,
)
def test_an_option_in_python_is_refused(note: JobType, option: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as refusal:
        note.options(**{option: value}).submit(text="x")

    assert str(refusal.value).startswith(f"{option.removesuffix('_s')}: ")
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "span", [{"days": 1e300}, {"hours": math.inf}, {"seconds": math.nan}, {"days": -1}, {"minutes": "5"}]
)
def test_a_delay_that_is_none_is_refused(note: JobType, span: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="^delay: "):
        note.after(**span).submit(text="x")


@pytest.mark.parametrize("by", [NUL, HALF, "x" * 301, 5])
def test_who_did_it_is_text(note: JobType, by: Any) -> None:
    waiting = note.submit(text="x")
    doors: list[Callable[[], object]] = [
        lambda: submit([SubmitRequest(type="t.note", params={"text": "x"})], by=by),
        lambda: operate.cancel(waiting.id, by=by),
        lambda: operate.retry(waiting.id, by=by),
        lambda: operate.pause("default", by=by),
        lambda: operate.resume("default", by=by),
    ]

    for door in doors:
        with pytest.raises(InvalidOption, match="^by: "):
            door()

    assert Job.objects.get().state == "queued"


@pytest.mark.parametrize("reason", [NUL, HALF, "x" * 501, 5])
def test_a_reason_is_text(reason: Any) -> None:
    with pytest.raises(InvalidOption, match="^reason: "):
        operate.pause("default", by="ana", reason=reason)

    assert not Queue.objects.exists()


@pytest.mark.parametrize("key", ["", NUL, HALF, "x" * 256, 5])
def test_an_idempotency_key_in_python_is_text(key: Any) -> None:
    with pytest.raises(InvalidOption, match="^idempotency_key: "):
        once("user:1", key, b"", dict)


@pytest.mark.parametrize("filters", [{"type": HALF}, {"queue": NUL}, {"states": [HALF]}, {"type": "x" * 121}])
def test_a_filter_in_python_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(EsteiraError) as refusal:
        page(Filters(**filters), limit=10)

    assert refusal.value.status == 422


# --- The command line -----------------------------------------------------------------------------------------------

WORDS = [
    *[
        ["submit", "t.note", "text=x", "--at", value]
        for value in [*BAD_MOMENTS, "", "infinity", "2026-01-01", HALF]
    ],
    *[
        ["submit", "t.note", "text=x", option, value]
        for option in ("--delay", "--expires")
        for value in ("-1", "3e11", "400000000000", f"{'9' * 400}d", "nan", "inf", "", HALF)
    ],
    ["submit", "t.note", "text=x", "--expires", "0"],
    *[["submit", "t.note", "text=x", "--unique", value] for value in ("", "x" * 201, HALF)],
    *[["submit", "t.note", "text=x", "--queue", value] for value in ("nobody", HALF)],
    ["submit", HALF],
    ["submit", "t.note", f"text={HALF}"],
    ["submit", "t.note", f"{HALF}=x"],
    *[["list", "--limit", value] for value in ("0", "-1", "100001", "9" * 5000, "nan", "", HALF)],
    *[["list", option, HALF] for option in ("--type", "--queue")],
    ["list", "--type", "x" * 121],
    ["show", HALF],
    ["cancel", HALF],
    *[["token", "t", "--expires", value] for value in ("0", f"{'9' * 400}d", "400000000000", "nan")],
    *[["token", name] for name in ("", HALF, "x" * 81)],
    ["token", "t", "--user", HALF],
]


@pytest.mark.parametrize(
    "words", WORDS, ids=lambda words: " ".join(words)[:60].encode("ascii", "replace").decode()
)
def test_a_word_on_the_command_line_is_refused(words: list[str]) -> None:
    account("root", superuser=True)
    out, err, said = StringIO(), StringIO(), ""

    try:
        call_command("jobs", *words, stdout=out, stderr=err)
        code: Any = 0
    except SystemExit as stop:
        code = stop.code
    except CommandError as error:
        code, said = 2, str(error)

    assert code in (1, 2), out.getvalue()
    assert (err.getvalue() + said).strip()
    assert not Job.objects.exists()


# --- The admin ------------------------------------------------------------------------------------------------------

FORMS = [
    *[{"cron": "", "every_s": value} for value in ("3e11", "8e13", "nan", "inf", "-1", "0.999", "316224001")],
    *[{"grace_s": value} for value in ("1e12", "nan", "inf", "-1", "0", "316224001")],
    *[
        {"params": value}
        for value in ('{"text": NaN}', '{"text": "\\u0000"}', '{"text": "\\ud800"}', "null", '"x"')
    ],
    {"params": '{"text": "x", "times": 1e999}'},
    {"name": ""},
    {"name": "x" * 121},
    {"name": NUL},
    {"cron": "* " * 200},
    {"cron": NUL},
    {"tz": "x" * 65},
    {"tz": NUL},
    {"tz": "../UTC"},
]


@pytest.mark.parametrize("wrong", FORMS, ids=lambda wrong: repr(wrong)[:60])
def test_a_schedule_in_the_admin_is_refused(database: None, wrong: dict[str, str]) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(account("boss", superuser=True, staff=True))
    form = {
        "name": "weekly",
        "type": "t.note",
        "params": '{"text": "x"}',
        "cron": "0 6 * * 1",
        "tz": "UTC",
        "every_s": "",
        "overlap": "skip",
        "missed": "once",
        "grace_s": "60",
        "enabled": "on",
        **wrong,
    }

    response = client.post("/admin/esteira/schedule/add/", form)

    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert not Schedule.objects.exists()


# --- What the database itself refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["infinity", "-infinity", "0001-01-01 BC", "1969-12-31Z", "2200-01-01Z", "12000-01-01Z"]
)
@pytest.mark.parametrize("column", ["run_at", "expires_at", "created_at", "hold_until", "published_at"])
def test_the_database_refuses_a_moment(note: JobType, column: str, value: str) -> None:
    from django.db import IntegrityError, connection

    note.submit(text="x")

    with pytest.raises(IntegrityError, match="job_moments"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE esteira_job SET {column} = %s", [value])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "1e300"])
@pytest.mark.parametrize("column", ["progress_done", "progress_total", "timeout_s", "lease_s", "backoff_s"])
def test_the_database_refuses_a_number(note: JobType, column: str, value: str) -> None:
    from django.db import IntegrityError, connection

    note.submit(text="x")

    with pytest.raises(IntegrityError, match="job_numbers"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE esteira_job SET {column} = %s::float8", [value])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("every_s", "NaN"),
        ("every_s", "3e11"),
        ("grace_s", "1e12"),
        ("grace_s", "-1"),
        ("last_tick_at", "infinity"),
    ],
)
def test_the_database_refuses_a_schedule(column: str, value: str) -> None:
    from django.db import IntegrityError, connection

    Schedule.objects.create(name="s", type="t.note", every_s=60, origin="database")

    with pytest.raises(IntegrityError, match="schedule_bounds"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE esteira_schedule SET {column} = %s", [value])
