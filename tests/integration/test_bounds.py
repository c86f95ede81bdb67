"""Every interface, and every value just outside its bounds: an error that names the field, and never an error page."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test import Client

from esteira import JobType, operate
from esteira.errors import EsteiraError
from esteira.idempotency import once
from esteira.job_types.registry import registry
from esteira.job_types.request import SubmitRequest
from esteira.models import Job, Queue, Schedule
from esteira.submit import submit
from esteira.values import bounds
from esteira_web.read.listing import Filters, page
from tests.support.clients import account, bearer, browser, get, post, problem

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
def note() -> JobType:
    return registry.get("t.note")


@pytest.fixture
def operator(database: None) -> Client:
    client = bearer("operator")
    client.raise_request_exception = False
    return client


def refusal(response: Any) -> str:
    """Return the detail of an answer which says what is wrong, or what the answer was instead."""
    if response.status_code not in (400, 413, 422):
        return f"NOT REFUSED: {response.status_code} {response.content[:200]!r}"
    return str(problem(response)["detail"])


def taken(asked: Iterable[tuple[Any, str]], said: str = "") -> list[str]:
    """Name what was not refused, or refused without naming its field; one test asks about a whole door."""
    return [
        f"{what!r:.100}: {answer:.300}"
        for what, answer in asked
        if "NOT REFUSED" in answer or said not in answer
    ]


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


def test_an_option_over_http_is_refused(operator: Client) -> None:
    for field, value in OPTIONS:
        body = {"type": "t.note", "params": {"text": "x"}, "options": {field: value}}

        one = refusal(post(operator, "/jobs", body))
        many = refusal(post(operator, "/jobs/batch", {"jobs": [body]}, Idempotency_Key="k"))

        assert not taken([(body, one), (body, many)], said=field)

    assert not Job.objects.exists()


def test_a_type_or_a_parameter_over_http_is_refused(operator: Client) -> None:
    types = ["", NUL, HALF, "x" * 100_000, 5, [], {}, None]
    values = ["", NUL, HALF, "x" * 100_000, math.nan, 10**400, [[]] * 40_000]
    bodies: list[dict[str, Any]] = [
        *({"type": value, "params": {"text": "x"}} for value in types),
        *({"type": "t.note", "params": {"text": value}} for value in values),
        {"type": "t.note", "params": {HALF: 1, "text": "x"}},
        {"type": "t.note", "params": {"text": "x"}, HALF: 1},
    ]

    assert not taken((body, refusal(post(operator, "/jobs", body))) for body in bodies)
    assert not Job.objects.exists()


QUERIES = [
    *[("created_after", value) for value in [*BAD_MOMENTS, "", "infinity", "2026-01-01", "+00:00"]],
    *[("limit", value) for value in ["0", "-1", "201", "1e9", "nan", "9" * 5000, "", "1.5"]],
    *[("type", value) for value in [NUL, "x" * 121, "\x00"]],
    *[("queue", value) for value in [NUL, "x" * 61]],
    *[("state", value) for value in [NUL, "done", "x" * 5000]],
    *[("cursor", value) for value in [NUL, "x", "é", "W10", "eyJhIjoxfQ"]],
]


def test_a_filter_over_http_is_refused(operator: Client) -> None:
    for name, value in QUERIES:
        answer = refusal(get(operator, f"/jobs?{urlencode({name: value})}"))

        assert not taken([((name, value), answer)], said=name)


def test_a_moment_in_an_odd_zone_is_a_moment(operator: Client, note: JobType) -> None:
    """Python and JSON know offsets up to a day, PostgreSQL refuses those of 16 hours and more."""
    for offset in ("+23:59", "-23:59", "+15:59", "+00:00:01"):
        when = datetime.fromisoformat(f"2026-06-01T12:00:00{offset}")

        found = get(operator, f"/jobs?{urlencode({'created_after': when.isoformat()})}")
        stored = note.at(when).submit(text="x")

        assert found.status_code in (200, 422)
        assert Job.objects.get(pk=stored.id).run_at == when


def test_a_cursor_that_was_made_up_is_refused_or_leads_nowhere(operator: Client) -> None:
    for at in ("0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
        made = json.dumps(["older", at, "01a22658-1a60-714f-9fef-03603dd0ef51"]).encode()
        cursor = base64.urlsafe_b64encode(made).decode().rstrip("=")

        assert get(operator, f"/jobs?cursor={cursor}").status_code in (200, 422)


def test_an_upload_with_an_odd_name_is_stored_or_refused(operator: Client) -> None:
    for name in ("", NUL, "x" * 5000, "../../etc/passwd", "\u202egnp.exe", "."):
        for kind in ("x/y", "x" * 500, "text/html; charset=\x01", "a/b/c"):
            response = operator.post(f"/api/v1/files?{urlencode({'name': name})}", b"x", content_type=kind)

            assert response.status_code in (201, 400, 422), response.content[:300]
            if response.status_code == 201:
                bounds.FILE_NAME.check("name", response.json()["name"])
                assert len(response.json()["content_type"]) <= 120


def test_an_idempotency_key_is_refused(operator: Client) -> None:
    body = {"type": "t.note", "params": {"text": "x"}}
    keys = ("", "x" * 256, "é", "a\tb")

    answers = [(key, refusal(post(operator, "/jobs", body, Idempotency_Key=key))) for key in keys]

    assert not taken(answers, said="Idempotency-Key")


def test_an_address_that_is_nothing_is_not_found(operator: Client) -> None:
    for path in ("/job-types/a%00b", "/job-types/%ff%fe", f"/jobs/{'0' * 99}", "/jobs/a%00/files/b"):
        assert get(operator, path).status_code == 404


# --- Pages ----------------------------------------------------------------------------------------------------------


def test_a_filter_on_a_page_is_refused_with_a_page(database: None) -> None:
    client = browser("operator", raise_request_exception=False)

    for name, value in (query for query in QUERIES if query[0] in ("type", "queue", "state", "cursor")):
        response = client.get(f"/?{urlencode({name: value})}")

        assert response.status_code == 422, (name, value[:50])
        assert "text/html" in response.headers["Content-Type"]


def test_an_odd_session_cookie_is_nobody(database: None) -> None:
    for cookie in ("a\0bcdefgh", '"\\000abcdefgh"', "x" * 4000):
        client = Client(raise_request_exception=False)

        assert client.get("/", headers={"Cookie": f"sessionid={cookie}"}).status_code == 302


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
    ("delay", [*BAD_SPANS, timedelta.max, True]),
    ("expires_in", [0, *BAD_SPANS, timedelta.max, True]),
    ("unique", BAD_TEXTS),
    ("queue", [NUL, HALF, "nobody", 5, [5], {"a": 1}]),
    ("priority", [NUL, "urgent", 5, [5], {"a": 1}]),
    ("on_conflict", ["skip", None, 5, [], {}]),
]


def said_by(door: Callable[..., object], *given: Any, **options: Any) -> str:
    try:
        return f"NOT REFUSED: {door(*given, **options)}"
    except EsteiraError as error:
        return str(error)


@pytest.mark.parametrize(("option", "values"), PYTHON, ids=[name for name, _ in PYTHON])
def test_an_option_in_python_is_refused(note: JobType, option: str, values: list[Any]) -> None:
    for value in values:
        answer = said_by(note.options(**{option: value}).submit, text="x")

        assert not taken([(value, answer)], said=f"{option}: ")

    assert not Job.objects.exists()


def test_a_delay_that_is_none_is_refused(note: JobType) -> None:
    spans: list[dict[str, Any]] = [{"days": 1e300}, {"hours": math.inf}, {"seconds": math.nan}, {"days": -1}]
    spans.append({"minutes": "5"})

    answers = [
        (span, said_by(lambda **given: note.after(**given).submit(text="x"), **span)) for span in spans
    ]

    assert not taken(answers, said="delay: ")


def test_who_did_it_is_text(note: JobType) -> None:
    waiting = note.submit(text="x")
    request = SubmitRequest(type="t.note", params={"text": "x"})
    doors: list[Callable[[Any], object]] = [
        lambda by: submit([request], by=by),
        lambda by: operate.cancel(waiting.id, by=by),
        lambda by: operate.retry(waiting.id, by=by),
        lambda by: operate.pause("default", by=by),
        lambda by: operate.resume("default", by=by),
    ]
    texts: list[Any] = [NUL, HALF, "x" * 301, 5]

    answers = [(by, said_by(door, by)) for door in doors for by in texts]

    assert not taken(answers, said="by: ")
    assert Job.objects.get().state == "queued"


def test_a_reason_a_key_and_a_filter_are_text(database: None) -> None:
    texts: list[Any] = [NUL, HALF, "x" * 501, 5]
    filters: list[dict[str, Any]] = [{"type": HALF}, {"queue": NUL}, {"states": [HALF]}, {"type": "x" * 121}]

    reasons = [(v, said_by(operate.pause, "default", by="ana", reason=v)) for v in texts]
    keys = [(v, said_by(once, "user:1", v, b"", dict)) for v in ["", *texts]]
    pages = [(f, said_by(page, Filters(**f), limit=10)) for f in filters]

    assert not taken(reasons, said="reason: ")
    assert not taken(keys, said="idempotency_key: ")
    assert not taken(pages)
    assert not Queue.objects.exists()


# --- The command line -----------------------------------------------------------------------------------------------

WORDS = [
    *[
        ["submit", "t.note", "text=x", "--run-at", value]
        for value in [*BAD_MOMENTS, "", "infinity", "2026-01-01", HALF]
    ],
    *[
        ["submit", "t.note", "text=x", option, value]
        for option in ("--delay", "--expires-in")
        for value in ("-1", "3e11", "400000000000", f"{'9' * 400}d", "nan", "inf", "", HALF)
    ],
    ["submit", "t.note", "text=x", "--expires-in", "0"],
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


@pytest.mark.parametrize("machine", [False, True])
def test_a_word_on_the_command_line_is_refused(database: None, machine: bool) -> None:
    account("root", superuser=True)

    answers = [(words, typed([*words, *(["--json"] if machine else [])])) for words in WORDS]

    assert not taken(answers)
    assert not Job.objects.exists()


def typed(words: list[str]) -> str:
    """Return what the command said when it refused."""
    out, err = StringIO(), StringIO()
    try:
        call_command("jobs", *words, stdout=out, stderr=err)
    except SystemExit as stop:
        err.getvalue().encode()
        if stop.code in (1, 2) and err.getvalue().strip():
            return err.getvalue()
    except CommandError as error:
        return str(error)
    except Exception as error:  # a traceback is what a bad word must not make
        return f"NOT REFUSED: {error!r}"
    return f"NOT REFUSED: {out.getvalue()} {err.getvalue()}"


# --- The admin ------------------------------------------------------------------------------------------------------

FORMS = [
    *[{"cron": "", "every_s": value} for value in ("3e11", "8e13", "nan", "inf", "-1", "0.999", "316224001")],
    *[{"grace_s": value} for value in ("1e12", "nan", "inf", "-1", "0", "316224001")],
    *[
        {"params": value}
        for value in ('{"text": NaN}', '{"text": "\\u0000"}', '{"text": "\\ud800"}', "null", '"x"')
    ],
    {"params": '{"text": "x", "times": 1e999}'},
    {"params": '{"text": "x", "text": "y"}'},
    {"params": '{"text": "x", "times": true}'},
    {"params": '{"text": "x", "times": 1' + "0" * 5000 + "}"},
    {"params": "[" * 5000},
    {"name": ""},
    {"name": "x" * 121},
    {"name": NUL},
    {"cron": "* " * 200},
    {"cron": NUL},
    {"tz": "x" * 65},
    {"tz": NUL},
    {"tz": "../UTC"},
]


def test_a_schedule_in_the_admin_is_refused(database: None) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(account("boss", superuser=True, staff=True))

    for wrong in FORMS:
        response = client.post("/admin/esteira/schedule/add/", form(**wrong))

        assert response.status_code == 200, (wrong, response.status_code)
        assert "errorlist" in response.content.decode(), wrong
        assert not Schedule.objects.exists()


def form(**wrong: str) -> dict[str, str]:
    return {
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


# --- What the database itself refuses -------------------------------------------------------------------------------

MOMENTS = ["infinity", "-infinity", "0001-01-01 BC", "1969-12-31Z", "2200-01-01Z", "12000-01-01Z"]
NUMBERS = ["NaN", "Infinity", "-1", "1e300"]


def stored(table: str, column: str, value: str) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table} SET {column} = %s", [value])
    except IntegrityError:
        return False
    return True


def test_the_database_refuses_what_python_cannot_read(note: JobType) -> None:
    note.submit(text="x")
    Schedule.objects.create(name="s", type="t.note", every_s=60, origin="database")
    moments = ("run_at", "expires_at", "created_at", "hold_until")
    jobs = [
        *((column, value) for column in moments for value in MOMENTS),
        *((column, v) for column in ("progress_done", "timeout_s", "lease_s", "backoff_s") for v in NUMBERS),
        ("max_failures", "0"),
        ("max_failures", "1002"),
    ]
    schedules = [("every_s", "NaN"), ("every_s", "3e11"), ("grace_s", "1e12"), ("grace_s", "-1")]
    schedules += [("last_tick_at", value) for value in MOMENTS]

    assert not [one for one in jobs if stored("esteira_job", *one)]
    assert not [one for one in schedules if stored("esteira_schedule", *one)]
