"""`@job`: how a function becomes a job type; every mistake in a declaration is refused with its file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from esteira import Context, LocalContext, Secret, cron, every, job
from esteira.errors import DeclarationError, InvalidParameters, UnknownJobType
from esteira.job_types.registry import JobType, registry
from esteira.job_types.request import SubmitRequest, Submitted
from esteira.job_types.schedule import Cadence

pytestmark = pytest.mark.usefixtures("job_types")


def test_a_function_becomes_a_type_named_after_its_module_and_itself() -> None:
    @job
    def thumbnails(ctx: Context, width: int = 300) -> dict[str, int]:
        """Make thumbnails.

        One for each size.
        """
        return {"width": width}

    assert isinstance(thumbnails, JobType)
    assert thumbnails.name == "test_registry.thumbnails"
    assert (thumbnails.title, thumbnails.help) == ("Make thumbnails", "One for each size.")
    assert registry.get("test_registry.thumbnails") is thumbnails
    assert thumbnails.name in registry.names()


def test_a_declaration_without_options_has_the_documented_ones() -> None:
    @job
    def plain(ctx: Context) -> None: ...

    assert (plain.queue, plain.priority, plain.retries, plain.timeout_s) == ("default", "normal", 3, 600.0)
    assert (plain.lease_s, plain.atomic, plain.goes_alone, plain.schedule) == (None, False, False, None)
    assert plain.title == plain.name


def test_durations_are_seconds_or_timedeltas() -> None:
    @job(timeout=timedelta(minutes=2), backoff=0.5, lease=timedelta(seconds=30), grace=5)
    def slow(ctx: Context) -> None: ...

    assert (slow.timeout_s, slow.backoff_s, slow.lease_s, slow.grace_s) == (120.0, 0.5, 30.0, 5.0)


def test_an_atomic_type_has_a_minute_and_goes_alone() -> None:
    @job(atomic=True)
    def transfer(ctx: Context) -> None: ...

    assert (transfer.timeout_s, transfer.goes_alone) == (60.0, True)


def test_a_function_that_uses_completing_goes_alone_even_from_an_inner_function() -> None:
    @job
    def outer(ctx: Context) -> None:
        def inner() -> None:
            with ctx.completing():
                pass

        inner()

    @job(alone=False)
    def insists(ctx: Context) -> None:
        with ctx.completing():
            pass

    assert outer.goes_alone
    assert not insists.goes_alone


def test_the_schema_is_the_signatures() -> None:
    @job
    def greet(ctx: Context, name: str, times: int = 3) -> None:
        """Say hello."""

    schema = greet.schema()

    assert schema["title"] == "Say hello"
    assert schema["required"] == ["name"]
    assert schema["properties"]["times"]["default"] == 3
    assert schema["additionalProperties"] is False


def test_run_calls_the_function_with_checked_parameters() -> None:
    @job
    def double(ctx: Context, n: int) -> int:
        ctx.progress(1, 1)
        return n * 2

    ctx = LocalContext()

    assert double.run(n="21") == 42
    assert double.run_with(ctx, n=1) == 2
    assert ctx.progress_calls == [(1, 1, "")]
    with pytest.raises(InvalidParameters, match="#/params/n"):
        double.run(n="many")


def test_an_unknown_type_is_said_with_the_known_ones() -> None:
    @job(name="mail.send")
    def send(ctx: Context) -> None: ...

    with pytest.raises(UnknownJobType, match=r"'mail\.sned'.*mail\.send"):
        registry.get("mail.sned")


def test_the_queues_are_those_that_types_name_and_the_default() -> None:
    @job(queue="reports")
    def report(ctx: Context) -> None: ...

    assert set(registry.queues()) >= {"default", "reports"}


def test_the_same_function_may_be_imported_twice() -> None:
    for _ in range(2):

        @job(name="twice.same")
        def same(ctx: Context) -> None: ...

    assert registry.get("twice.same") is same


def test_two_functions_cannot_have_one_name_and_both_places_are_said() -> None:
    @job(name="mail.send")
    def one(ctx: Context) -> None: ...

    with pytest.raises(DeclarationError) as refusal:

        @job(name="mail.send")
        def other(ctx: Context) -> None: ...

    places = re.findall(r"test_registry\.py:(\d+)", str(refusal.value))
    assert len(set(places)) == 2
    assert "@job(name=…)" in str(refusal.value)


def declare(**options: Any) -> JobType:
    def declared(ctx: Context, n: int = 0) -> None: ...

    made: JobType = job(**options)(declared)
    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": "my queue"}, "queue 'my queue'"),
        ({"queue": ""}, "queue ''"),
        ({"queue": "q" * 61}, "at most 60"),
        ({"priority": "urgent"}, "high, normal, low"),
        ({"retries": -1}, "retries must be 0 to 1000"),
        ({"retries": 1.5}, "retries must be 0 to 1000"),
        ({"retries": "3"}, "retries must be 0 to 1000"),
        ({"retries": True}, "retries must be 0 to 1000"),
        ({"overlap": "never"}, "allow, skip or queue"),
        ({"missed": "some"}, "skip, once or all"),
        ({"name": "two words"}, "without spaces"),
        ({"name": "n" * 121}, "1 to 120"),
        ({"name": "bell\a"}, "printable"),
        ({"timeout": -1}, "timeout must be a number of seconds"),
        ({"timeout": 0}, "timeout must be a number of seconds"),
        ({"timeout": timedelta(0)}, "timeout must be a number of seconds"),
        ({"backoff": float("nan")}, "backoff must be a number of seconds"),
        ({"lease": float("inf")}, "lease must be a number of seconds"),
        ({"timeout": "10m"}, "timeout must be a number of seconds"),
        ({"schedule": "0 3 * * *"}, "schedule must be cron(…) or every(…)"),
        ({"grace": 0}, "grace must be a number of seconds"),
    ],
)
def test_a_wrong_option_is_refused_at_import_with_its_place(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=r"test_registry\.py:\d+: ") as refusal:
        declare(**options)

    assert said in str(refusal.value)
    assert "test_registry.declared" not in registry.names()


def test_a_wrong_option_is_said_with_the_line_of_its_function() -> None:
    line = declare.__code__.co_firstlineno + 1

    with pytest.raises(DeclarationError, match=rf"test_registry\.py:{line}: "):
        declare(queue="my queue")


def test_an_async_function_is_refused_in_a_sentence() -> None:
    with pytest.raises(DeclarationError, match=r"test_registry\.py:\d+: later is `async def`"):

        @job
        async def later(ctx: Context) -> None: ...


def test_only_a_plain_function_becomes_a_type() -> None:
    with pytest.raises(DeclarationError, match="needs a plain function"):
        job(print)


def test_a_scheduled_type_needs_a_default_for_every_parameter() -> None:
    with pytest.raises(DeclarationError, match="missing for day"):

        @job(schedule=every(60))
        def nightly(ctx: Context, day: str, n: int = 0) -> None: ...

    assert "test_registry.nightly" not in registry.names()


def test_a_schedule_stays_with_its_type() -> None:
    declared = declare(schedule=cron("0 3 * * *", tz="America/Sao_Paulo"), overlap="skip", missed="all")

    assert declared.schedule == cron("0 3 * * *", tz="America/Sao_Paulo")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[SubmitRequest]:
    """What reaches the installed submitter."""
    seen: list[SubmitRequest] = []

    def submitter(requests: Iterable[SubmitRequest]) -> list[Submitted]:
        new = list(requests)
        seen.extend(new)
        return [Submitted(id=uuid4()) for _ in new]

    monkeypatch.setattr(registry, "submitter", submitter)
    return seen


def test_the_ways_to_submit_say_what_was_chosen_and_nothing_else(submitted: list[SubmitRequest]) -> None:
    greet = declare()
    when = datetime(2030, 1, 1, tzinfo=UTC)

    greet.submit(n=1)
    greet.after(minutes=1, seconds=30).submit(n=2)
    greet.at(when).submit(n=3)
    greet.options(queue="mail", priority="high", unique="k", on_conflict="error", expires_in=9).submit(n=4)

    first, after, at, chosen = submitted
    assert first == SubmitRequest(type=greet.name, params={"n": 1})
    assert after == SubmitRequest(type=greet.name, params={"n": 2}, delay=90.0)
    assert at == SubmitRequest(type=greet.name, params={"n": 3}, run_at=when)
    assert (chosen.queue, chosen.priority, chosen.unique) == ("mail", "high", "k")
    assert (chosen.on_conflict, chosen.expires_in) == ("error", 9)


def test_submit_many_gives_an_id_for_each(submitted: list[SubmitRequest]) -> None:
    ids = declare().submit_many({"n": n} for n in range(3))

    assert len(set(ids)) == 3
    assert [r.params for r in submitted] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("template", "said"), [("{acount}", "'acount'"), ("{", "cannot be read"), ("{n} {}", "''")]
)
def test_a_unique_key_is_made_of_parameters(template: str, said: str) -> None:
    def fn(ctx: Context, n: int) -> None: ...

    with pytest.raises(DeclarationError, match=re.escape(said)):
        job(name="test.unique", unique=template)(fn)


@pytest.mark.parametrize("template", ["{token}", "{token!r}", "{name:{token}}", "all-{many}"])
def test_a_unique_key_of_a_secret_is_refused(template: str) -> None:
    with pytest.raises(DeclarationError, match="holds a secret"):

        @job(name="keys.secret", unique=template)
        def secret(ctx: Context, token: Secret, many: list[Secret], name: str = "") -> None: ...


def _nothing(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    "options",
    [
        {"lease": 0.9},
        {"lease": 86401},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": 10**400},
        {"timeout": True},
        {"backoff": 3e11},
        {"grace": timedelta.max},
        {"retries": 1001},
        {"retries": 1.0},
        {"queue": ["default"]},
        {"queue": "a\ud800"},
        {"priority": ["high"]},
        {"name": 5},
        {"name": "a\0b"},
        {"unique": "x" * 201},
        {"unique": "a\0b"},
        {"schedule": Cadence(every_s=3e11)},
        {"schedule": Cadence(every_s=60, tz="Mars/X")},
        {"schedule": Cadence(every_s=60, tz="")},
        {"schedule": Cadence(every_s=60, cron="* * * * *")},
        {"schedule": Cadence(cron="\u0665 6 * * *")},
        {"schedule": Cadence(cron="1_0 6 * * *")},
        {"schedule": Cadence(cron="* * * * *\n")},
        {"name": "a\u202eb"},
        {"name": "a\nb"},
        {"name": "  "},
        {"queue": "a\nb"},
        {"queue": "\u202e"},
        {"schedule": Cadence(every_s=float("nan"))},
        {"schedule": Cadence(cron="x" * 500)},
    ],
    ids=repr,
)
def test_an_option_beyond_its_bounds_is_refused_with_its_place(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=r"test_registry\.py:\d+: "):
        job(**{"name": "keys.bad", **options})(_nothing)


@pytest.mark.parametrize(
    "span", [{"seconds": 3e11}, {"hours": float("nan")}, {"minutes": 1e300}, {"seconds": "5"}]
)
def test_an_interval_beyond_its_bounds_is_refused(span: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="^schedule: "):
        every(**span)
