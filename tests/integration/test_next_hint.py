"""A pool process that has finished a hint of short jobs takes the next one itself, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings

from esteira import job
from esteira.broker import next_hint, publisher
from esteira.broker.hint import LISTS, Hint, list_key
from esteira.broker.lists import LONGEST_BYTES
from esteira.job_types.context import Context
from esteira.job_types.registry import JobType
from esteira.models import Job
from esteira.runner import pool_process
from esteira.runner import runner as runner_module
from esteira.runner.runner import Runner
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types", "redis")

TYPE, QUEUE = "tests.short", "default"


@pytest.fixture
def short() -> JobType:
    @job(name=TYPE)
    def short(ctx: Context) -> None:
        """Take no time."""

    return short


def hint(*ids: UUID, type: str = TYPE, queue: str = QUEUE, number: int = 6) -> Hint:
    return Hint(type=type, queue=queue, list=number, ids=ids or [uuid4(), uuid4()], hard_limit_s=60)


def put(*hints: Hint) -> None:
    assert publisher.fast.send(hints)


def taken() -> list[str]:
    return list(next_hint.of(TYPE, QUEUE)())


def in_redis(redis: Any) -> int:
    return sum(redis.llen(list_key(settings.REDIS_PREFIX, QUEUE, number)) for number in LISTS)


def test_hints_come_in_the_order_in_which_a_worker_reads_them(redis: Any) -> None:
    there = [hint(number=number) for number in (9, 6, 3, 0)]
    put(there[0], there[1], hint(number=6), there[2], there[3])
    expected = [*reversed(there[1:]), None, there[0]]

    for one in expected:
        got = taken()
        assert len(got) == 2
        assert one is None or got == [str(each) for each in one.ids]
    assert taken() == []


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: hint(type="tests.shorter"), id="another type"),
        pytest.param(lambda: hint(type="tests"), id="a type whose name is a part of the name"),
        pytest.param(lambda: hint(uuid4()), id="a hint of one job"),
    ],
)
def test_any_other_hint_stays_and_no_later_one_is_taken(redis: Any, other: Any) -> None:
    put(other(), hint(), hint(number=9))

    assert taken() == []
    assert in_redis(redis) == 3


@pytest.mark.parametrize(
    "message", [b"", b"\xff\x00", b'{"task": "tests.short"}', b"x" * (LONGEST_BYTES + 1)], ids=len
)
def test_a_message_of_another_program_stays(redis: Any, message: bytes) -> None:
    redis.lpush(list_key(settings.REDIS_PREFIX, QUEUE, 3), message)
    put(hint())

    assert taken() == []
    assert in_redis(redis) == 2


def test_a_message_that_only_looks_like_a_hint_is_dropped_as_a_worker_drops_it(redis: Any) -> None:
    message = hint().message().replace('"body": "', '"body": "x')
    redis.lpush(list_key(settings.REDIS_PREFIX, QUEUE, 6), message)

    assert taken() == []
    assert in_redis(redis) == 0


def test_a_hint_of_another_queue_stays(redis: Any) -> None:
    put(hint(queue="mail"))

    assert taken() == []


def test_a_key_of_a_wrong_type_is_no_hint(redis: Any) -> None:
    redis.set(list_key(settings.REDIS_PREFIX, QUEUE, 0), "text")
    put(hint())

    assert taken() == []
    publisher.fast.forget()


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the time for following hints not end on a slow machine."""
    monkeypatch.setattr(runner_module, "TAKING_S", 60.0)
    yield


def stored(short: JobType, jobs: int) -> list[UUID]:
    return short.submit_many([{}] * jobs)


def parts(ids: Sequence[UUID], size: int) -> list[list[str]]:
    return [[str(one) for one in ids[at : at + size]] for at in range(0, len(ids), size)]


@pytest.mark.usefixtures("no_limit")
def test_following_hints_run_in_the_same_delivery(runner: Runner, short: JobType) -> None:
    ids = stored(short, 30)
    first, *others = parts(ids, 10)

    runner.run_hint(first, "d1", lambda: others.pop(0) if others else ())

    assert set(Job.objects.values_list("state", "attempt", "delivery")) == {("succeeded", 1, "d1")}


@pytest.mark.usefixtures("no_limit")
def test_after_a_hint_of_one_job_none_is_taken(runner: Runner, short: JobType) -> None:
    ids = stored(short, 12)
    many, one = parts(ids[:10], 10)[0], [str(ids[10])]
    following = iter([one, [str(ids[11])]])

    runner.run_hint(many, "d1", lambda: next(following))
    runner.run_hint([str(ids[11])], "d2", lambda: pytest.fail("a hint of one job is followed by none"))

    assert list(following) == [[str(ids[11])]]
    assert Job.objects.filter(state="succeeded").count() == 12


def test_a_process_takes_hints_for_a_limited_time(
    runner: Runner, short: JobType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "TAKING_S", 0.0)
    first, second = parts(stored(short, 20), 10)

    runner.run_hint(first, "d1", lambda: second)

    assert Job.objects.filter(state="succeeded").count() == 10


@pytest.mark.usefixtures("no_limit")
def test_a_process_that_was_told_to_stop_takes_none(
    runner: Runner, short: JobType, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = parts(stored(short, 20), 10)
    monkeypatch.setattr(pool_process, "_asked", True)

    with pytest.raises(pool_process.Leave):
        runner.run_hint(first, "d1", lambda: second)

    assert Job.objects.filter(state="succeeded").count() == 10


@pytest.mark.usefixtures("no_limit")
def test_outcomes_are_written_before_the_next_hint_is_taken(runner: Runner, short: JobType) -> None:
    first, second = parts(stored(short, 20), 10)

    def look() -> Sequence[str]:
        states = Job.objects.filter(id__in=first).values_list("state", flat=True)
        until(lambda: set(states.all()) == {"succeeded"}, "the first hint is recorded", timeout=1)
        return second if Job.objects.filter(id__in=second, state="queued").exists() else ()

    runner.run_hint(first, "d1", look)

    assert Job.objects.filter(state="succeeded").count() == 20
