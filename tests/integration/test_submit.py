"""From a request to a stored job and its hint: what is refused, what is stored, when the hint goes out."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import pytest
from django.db import transaction
from pydantic import Field

from esteira import Context, JobType, Secret, job
from esteira.broker import publisher
from esteira.broker.hint import Hint, ids_in, list_key
from esteira.broker.publisher import Publisher
from esteira.errors import (
    InvalidOption,
    InvalidParameters,
    InvalidRequest,
    TooLarge,
    UniqueConflict,
    UnknownJobType,
    UnknownQueue,
)
from esteira.job_types.request import SubmitRequest
from esteira.models import Job
from esteira.submit import submit
from project.local.embedded import free_port
from tests.support.waiting import Stopwatch, until

pytestmark = pytest.mark.usefixtures("database", "job_types", "fresh_publisher")


@pytest.fixture
def greet() -> JobType:
    def greet(
        ctx: Context, name: Annotated[str, Field(max_length=80)], times: int = 3, secret: Secret | None = None
    ) -> None:
        """Say hello."""

    return job(name="test.greet", retries=1, backoff=5, timeout=30, unique=None)(greet)


def hinted(redis: Any, priority: int = 6) -> list[str]:
    return [
        one
        for message in redis.lrange(list_key("esteira:", "default", priority), 0, -1)
        for one in ids_in(message)
    ]


def test_a_job_is_stored_with_its_types_choices_and_hinted(greet: JobType, redis: Any) -> None:
    answer = greet.submit(name="Ána 🎉")

    row = Job.objects.get(pk=answer.id)
    assert (row.type, row.params, row.state) == (
        "test.greet",
        {"name": "Ána 🎉", "times": 3, "secret": None},
        "queued",
    )
    assert (row.max_failures, row.backoff_s, row.timeout_s, row.priority) == (2, 5.0, 30.0, 6)
    assert row.published_at is not None
    assert hinted(redis) == [str(answer.id)]


def test_a_submit_belongs_to_the_callers_transaction(greet: JobType, redis: Any) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        greet.submit(name="Ana")
        assert hinted(redis) == []
        1 / 0  # noqa: B018

    assert not Job.objects.exists()
    assert hinted(redis) == []

    with transaction.atomic():
        answer = greet.submit(name="Ana")
        assert hinted(redis) == []
    assert hinted(redis) == [str(answer.id)]


def test_later_jobs_are_stored_without_a_hint(greet: JobType, redis: Any) -> None:
    when = datetime.now(UTC) + timedelta(days=2)
    rows = [
        Job.objects.get(pk=answer.id)
        for answer in (
            greet.after(hours=1).submit(name="a"),
            greet.at(when).submit(name="b"),
            greet.options(delay=5, expires_in=60).submit(name="c"),
        )
    ]

    assert hinted(redis) == []
    assert [row.published_at for row in rows] == [None] * 3
    assert abs((rows[0].run_at - rows[0].created_at).total_seconds() - 3600) < 1
    assert rows[1].run_at == when
    assert rows[2].expires_at is not None
    assert abs((rows[2].expires_at - rows[2].created_at).total_seconds() - 60) < 1


def test_many_jobs_are_stored_in_slices_and_hinted_as_far_as_the_window_goes(
    greet: JobType, redis: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ESTEIRA_WINDOW = 50
    monkeypatch.setattr("esteira.broker.batching.GUESS_S", 0.0)  # each job has a hint of its own
    ids = greet.submit_many({"name": str(n)} for n in range(2500))

    assert len(set(ids)) == 2500
    assert Job.objects.count() == 2500
    told = Job.objects.filter(published_at__isnull=False).count()
    assert 50 <= told <= 1050
    assert sorted(hinted(redis)) == sorted(
        str(pk) for pk in Job.objects.filter(published_at__isnull=False).values_list("pk", flat=True)
    )


def test_one_bad_request_among_many_stores_none(greet: JobType) -> None:
    with pytest.raises(InvalidParameters, match="times"):
        greet.submit_many([{"name": "a"}] * 1500 + [{"name": "b", "times": "many"}])

    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("params", "pointers"),
    [
        ({}, {"#/params/name"}),
        ({"name": 7, "times": "x", "nmae": "y"}, {"#/params/name", "#/params/times", "#/params/nmae"}),
        ({"name": "x" * 81}, {"#/params/name"}),
        ({"name": "a\0b"}, {"#/params/name"}),
    ],
)
def test_bad_parameters_are_named_all_at_once(
    greet: JobType, params: dict[str, Any], pointers: set[str]
) -> None:
    with pytest.raises(InvalidParameters) as caught:
        greet.submit(**params)
    assert {mistake.pointer for mistake in caught.value.mistakes} == pointers
    assert not Job.objects.exists()


def test_parameters_have_a_size() -> None:
    @job(name="test.big")
    def big(ctx: Context, text: str) -> None: ...

    with pytest.raises(TooLarge, match="64 KiB"):
        big.submit(text="x" * 70_000)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"queue": "nowhere"}, UnknownQueue, "nowhere"),
        ({"priority": "urgent"}, InvalidOption, "high, normal, low"),
        ({"delay": -1}, InvalidOption, "delay"),
        ({"delay": float("nan")}, InvalidOption, "delay"),
        ({"delay": 1e12}, InvalidOption, "ten years"),
        ({"expires_in": 0}, InvalidOption, "expires_in"),
        ({"run_at": datetime(2026, 1, 1)}, InvalidOption, "time zone"),  # noqa: DTZ001
        ({"run_at": datetime(2026, 1, 1, tzinfo=UTC), "delay": 1}, InvalidOption, "combined"),
        ({"unique": ""}, InvalidOption, "unique"),
        ({"unique": "x" * 201}, InvalidOption, "unique"),
        ({"on_conflict": "explode"}, InvalidOption, "on_conflict"),
    ],
)
def test_bad_options_name_the_field(
    greet: JobType, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        greet.options(**options).submit(name="Ana")
    assert not Job.objects.exists()


def test_mistakes_in_parameters_and_options_are_named_at_once_by_their_keywords(greet: JobType) -> None:
    options = {"delay": True, "expires_in": 0, "queue": "", "priority": "", "unique": ""}

    with pytest.raises(InvalidRequest) as caught:
        greet.options(**options).submit(name=7, nmae="y")

    pointers = [mistake.pointer for mistake in caught.value.mistakes]
    assert sorted(pointers) == sorted(["#/params/name", "#/params/nmae", *(f"#/{name}" for name in options)])
    assert all(f"{name}: " in str(caught.value) for name in (*options, "params/name", "params/nmae"))
    assert not Job.objects.exists()


def test_mistakes_in_many_requests_are_named_with_their_place(greet: JobType) -> None:
    with pytest.raises(InvalidRequest) as caught:
        greet.submit_many([{"name": "a"}, {"name": 1}, {"name": "b"}, {"nmae": "c"}])
    with pytest.raises(InvalidParameters) as one:
        greet.submit_many([{"name": "a"}, {"name": 1}])

    pointers = {mistake.pointer for mistake in caught.value.mistakes}
    assert pointers == {"#/1/params/name", "#/3/params/name", "#/3/params/nmae"}
    assert one.value.__notes__ == ["in request 1, counted from 0"]


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UnknownJobType, match=r"nobody\.knows"):
        submit([SubmitRequest(type="nobody.knows", params={})])


@pytest.mark.parametrize(
    ("template", "params", "guilty", "said"),
    [
        (
            "{name}",
            {"name": "x" * 300},
            ["name"],
            "makes a unique key of 300 characters; at most 200, so shorten it.",
        ),
        ("{times}-{name}", {"name": "x" * 300}, ["name"], "makes a unique key of 302 characters"),
        ("{name}", {"name": ""}, ["name"], "makes an empty unique key; give it a value."),
        ("{name}{note}", {"name": "", "note": ""}, ["name", "note"], "makes an empty unique key"),
        (
            "{times}-{day:%Y}",
            {"day": None},
            ["day"],
            "cannot be filled into the unique key '{times}-{day:%Y}'",
        ),
        ("{times:c}", {"times": 0}, ["times"], "makes a unique key that holds a NUL character"),
        (
            "{name}{times:c}",
            {"times": 0xD800},
            ["times"],
            "makes a unique key that holds half of a surrogate pair",
        ),
        (
            "{name:{times}}",
            {"name": "ana", "times": -1},
            ["name", "times"],
            "cannot be filled into the unique key",
        ),
    ],
)
def test_a_unique_key_that_cannot_be_made_names_the_parameters_it_is_made_of(
    template: str, params: dict[str, Any], guilty: list[str], said: str
) -> None:
    @job(name="test.keyed", unique=template)
    def keyed(
        ctx: Context, name: str = "a", note: str = "", times: int = 3, day: date | None = None
    ) -> None: ...

    with pytest.raises(InvalidParameters) as refused:
        keyed.submit(**params)

    assert [mistake.pointer for mistake in refused.value.mistakes] == [f"#/params/{name}" for name in guilty]
    assert all(said in mistake.detail for mistake in refused.value.mistakes)
    assert not Job.objects.exists()


def test_a_held_unique_key_answers_with_its_holder_or_an_error(greet: JobType) -> None:
    first = greet.options(unique="k").submit(name="a")
    again = greet.options(unique="k").submit(name="b")

    assert (again.id, again.deduplicated) == (first.id, True)
    with pytest.raises(UniqueConflict, match=str(first.id)):
        greet.options(unique="k", on_conflict="error").submit(name="c")
    assert Job.objects.count() == 1


def test_unique_keys_within_one_call_and_of_other_types_do_not_meet_by_accident(greet: JobType) -> None:
    @job(name="test.other", unique="{name}")
    def other(ctx: Context, name: str) -> None: ...

    ids = greet.options(unique="k").submit_many([{"name": "a"}, {"name": "b"}])
    third = other.submit(name="k")
    fourth = other.submit(name="k")

    assert ids[0] == ids[1] != third.id == fourth.id


def test_while_redis_is_away_jobs_are_accepted_without_delay(greet: JobType, settings: Any) -> None:
    settings.ESTEIRA_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    publisher.fast.forget()
    watch = Stopwatch()

    ids = [greet.submit(name=str(n)).id for n in range(50)]

    assert watch.seconds < 5
    assert Job.objects.filter(pk__in=ids, published_at=None).count() == 50


def test_the_breaker_asks_again_after_its_time(greet: JobType, settings: Any, servers: Any) -> None:
    settings.ESTEIRA_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    publisher = Publisher(breaker_s=0.2)
    hint = Hint(type="test.greet", queue="default", list=6, ids=[UUID(int=1)], hard_limit_s=60)
    assert publisher.send([hint]) is False
    assert publisher.available() is False
    settings.ESTEIRA_REDIS_URL = servers.valkey.url

    deadline = time.monotonic() + 10
    while not publisher.available():
        assert time.monotonic() < deadline
    publisher.forget()

    assert publisher.send([hint]) is True


def test_a_connection_that_redis_has_closed_is_opened_again(greet: JobType, redis: Any) -> None:
    first = greet.submit(name="a")
    redis.client_kill_filter(_type="normal", skipme=True)

    second = greet.submit(name="b")

    assert hinted(redis) == [str(second.id), str(first.id)]


def test_a_late_answer_is_not_taken_for_the_next_one(greet: JobType, redis: Any) -> None:
    publisher = Publisher(breaker_s=0.1)
    assert publisher.open_to_new("default") == {0, 3, 6, 9}
    hint = Hint(type="test.greet", queue="default", list=6, ids=[UUID(int=1)], hard_limit_s=60)
    redis.client_pause(500)
    assert publisher.send([hint]) is False

    until(lambda: publisher.open_to_new("default"), "Redis answers again")
    redis.set("esteira:behind.default", "3,9")

    until(lambda: publisher.open_to_new("default") == {0, 6}, "the flag is read")
