"""Every value that an interface accepts: lists stay readable, jobs end or wait for their moment, the keeper goes on."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.errors import EsteiraError
from esteira.job_types.registry import registry
from esteira.keeper.scheduler import Keeper
from esteira.models import Job
from esteira.runner.runner import Runner
from esteira.states import ENDED
from esteira.values import bounds
from tests.support.clients import account, bearer, browser, get, post

NUMBERS = st.one_of(
    st.floats(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from([0, -0.0, 1e308, bounds.TEN_YEARS_S, math.nextafter(bounds.TEN_YEARS_S, math.inf)]),
)
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=210)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
ZONES = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
).map(lambda offset: timezone(offset - timedelta(microseconds=offset.microseconds)))
MOMENTS = st.datetimes(timezones=ZONES) | st.datetimes(
    min_value=datetime(1969, 12, 30),  # noqa: DTZ001  (the zones are drawn beside it)
    max_value=datetime(2037, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
PROGRESS = NUMBERS | st.decimals() | st.fractions() | st.none() | st.booleans() | TEXTS
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "delay": NUMBERS,
        "run_at": MOMENTS,
        "expires_in": NUMBERS,
        "unique": TEXTS,
        "queue": st.sampled_from(["default", "no", None]),
        "priority": st.sampled_from(["high", "low", "no", None]),
    },
)


@pytest.fixture(scope="module")
def kinds() -> Any:
    """One type that takes and gives back anything, and tells any progress on the way."""
    before = dict(registry._types)
    told: dict[str, Any] = {}

    @job(name="any.thing", retries=0)
    def thing(ctx: Context, value: Any = None) -> Any:
        for done, total, text in told.get("progress", []):
            ctx.progress(done, total, text)
        return told.get("result", value)

    yield told
    registry._types.clear()
    registry._types.update(before)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def strict(text: bytes | str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


class Everybody:
    """Whoever reads lists, signed in once."""

    def __init__(self) -> None:
        self.api = bearer("operator")
        self.page = browser("operator")
        self.admin = Client()
        self.admin.force_login(account("boss", superuser=True, staff=True))

    def reads_everything(self, job_id: UUID) -> None:
        listed, one = get(self.api, "/jobs?limit=200"), get(self.api, f"/jobs/{job_id}")
        assert listed.status_code == one.status_code == 200
        assert str(job_id) in [line["id"] for line in strict(listed.content)["items"]]
        strict(one.content)
        for client, path in (
            (self.page, "/"),
            (self.page, f"/jobs/{job_id}/"),
            (self.admin, "/admin/esteira/job/"),
            (self.admin, f"/admin/esteira/job/{job_id}/change/"),
        ):
            assert client.get(path).status_code == 200, path
        out = StringIO()
        call_command("jobs", "list", "--json", stdout=out)
        [strict(line) for line in out.getvalue().splitlines()]
        call_command("jobs", "show", str(job_id), stdout=StringIO(), stderr=StringIO())


@pytest.fixture
def everybody(database: None) -> Everybody:
    return Everybody()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=JSON,
    options=OPTIONS,
    progress=st.lists(st.tuples(PROGRESS, PROGRESS, TEXTS), max_size=2),
    result=JSON,
)
def test_whatever_is_accepted_can_be_read_and_ends(
    kinds: dict[str, Any],
    runner: Runner,
    core: PrivateConnection,
    everybody: Everybody,
    value: Any,
    options: dict[str, Any],
    progress: list[Any],
    result: Any,
) -> None:
    kinds.update(progress=progress, result=result)

    try:
        job_id = registry.get("any.thing").options(**options).submit(value=value).id
    except EsteiraError as refusal:
        assert refusal.status in (413, 422), refusal
        return
    runner.run_hint([str(job_id)], str(uuid4()))
    [(state, later)] = core.fetch(
        "SELECT state, run_at > clock_timestamp() FROM esteira_job WHERE id = %s", [job_id]
    )

    assert state in ENDED or later
    everybody.reads_everything(job_id)
    turned(Keeper())


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=JSON, options=st.dictionaries(st.sampled_from(["delay", "expires_in", "unique", "run_at"]), JSON)
)
def test_whatever_comes_over_http_is_accepted_or_refused(
    kinds: dict[str, Any], everybody: Everybody, value: Any, options: dict[str, Any]
) -> None:
    everybody.api.raise_request_exception = False

    answer = post(
        everybody.api, "/jobs", {"type": "any.thing", "params": {"value": value}, "options": options}
    )

    assert answer.status_code in (202, 400, 413, 422), answer.content[:300]
    if answer.status_code == 202:
        everybody.reads_everything(UUID(strict(answer.content)["id"]))


@pytest.mark.parametrize("levels", [0, 150, 190, 201, 500, 900, 5000])
def test_a_value_is_nested_as_deeply_as_can_be_shown_or_refused(
    kinds: dict[str, Any], runner: Runner, everybody: Everybody, levels: int
) -> None:
    kinds.update(progress=[], result=deep(levels))

    job_id = registry.get("any.thing").submit().id
    runner.run_hint([str(job_id)], str(uuid4()))
    try:
        given_id = registry.get("any.thing").submit(value=deep(levels)).id
    except EsteiraError as refusal:
        assert levels > bounds.NESTED - 2, refusal
    else:
        everybody.reads_everything(given_id)

    assert Job.objects.get(pk=job_id).state == ("succeeded" if levels <= bounds.NESTED else "failed")
    everybody.reads_everything(job_id)


@pytest.mark.parametrize(
    ("done", "total", "stored"),
    [
        (math.nan, math.inf, (0.0, bounds.MOST_PROGRESS)),
        (-math.inf, -5, (0.0, 0.0)),
        (10**400, math.nan, (bounds.MOST_PROGRESS, None)),
        (Decimal("1.5"), Fraction(5, 2), (1.5, 2.5)),
        (Decimal("sNaN"), Decimal("Infinity"), (0.0, bounds.MOST_PROGRESS)),
    ],
)
def test_progress_that_is_no_sound_number_becomes_one(
    kinds: dict[str, Any], runner: Runner, done: Any, total: Any, stored: tuple[float, float | None]
) -> None:
    kinds.update(progress=[(done, total, "a\0b\ud800" * 100)], result=None)

    job_id = registry.get("any.thing").submit().id
    runner.run_hint([str(job_id)], str(uuid4()))

    row = Job.objects.get(pk=job_id)
    assert (row.state, row.progress_done, row.progress_total) == ("succeeded", *stored)
    assert len(row.progress_text) == bounds.PROGRESS_TEXT


@pytest.mark.parametrize("done", ["half", b"1", True, None, [1], object()])
def test_progress_that_is_no_number_fails_the_job_with_a_sentence(
    kinds: dict[str, Any], runner: Runner, done: Any
) -> None:
    kinds.update(progress=[(done, None, "")], result=None)

    job_id = registry.get("any.thing").submit().id
    runner.run_hint([str(job_id)], str(uuid4()))

    row = Job.objects.get(pk=job_id)
    assert row.state == "failed"
    assert "progress: done must be a number" in row.error["message"]  # type: ignore[index]


def turned(keeper: Keeper) -> None:
    """Take one whole turn; a step that fails raises here, and `turn` would only log it."""
    keeper._turn()
