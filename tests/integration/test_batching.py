"""How much goes into one hint: measured run times decide, and the first ones are known soon."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from esteira import job
from esteira.broker.batching import BATCH_MAX, GUESS_MAX, Typical, hints
from esteira.db import PrivateConnection
from esteira.job_types.context import Context
from esteira.stats import MEASURED, Stats
from tests.support.jobs import new
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture
def core() -> Iterator[PrivateConnection]:
    core = PrivateConnection("test")
    yield core
    core.close()


@pytest.fixture
def short() -> str:
    @job(name="tests.short")
    def short(ctx: Context) -> None:
        """Take no time."""

    return short.name


def ran(name: str, times: int, seconds: float = 0.001) -> Stats:
    stats = Stats()
    for _ in range(times):
        stats.add(name, "default", "succeeded", seconds)
    return stats


def sizes(core: PrivateConnection, name: str, waiting: int, typical: Typical) -> list[int]:
    """Return how many jobs each hint of a list carries."""
    jobs = [new(type=name) for _ in range(waiting)]
    typical.refresh(core, jobs)
    return [len(hint.ids) for hint in hints([(job.choices, [uuid4()]) for job in jobs], typical)]


def test_a_type_without_a_run_shares_hints_for_its_first_seconds_and_then_goes_alone(
    core: PrivateConnection, short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typical = Typical()

    assert max(sizes(core, short, 1000, typical)) == GUESS_MAX
    assert sizes(core, short, 10, typical) == [1] * 10
    monkeypatch.setattr("esteira.broker.batching.GUESS_S", 0.0)
    assert sizes(core, short, 1000, typical) == [1] * 1000


@pytest.mark.parametrize(("seconds", "size"), [(0.0001, GUESS_MAX), (0.05, 4), (3.0, 1)])
def test_the_first_run_of_a_type_limits_its_hints(
    core: PrivateConnection, short: str, seconds: float, size: int
) -> None:
    ran(short, 1, seconds).flush(core)

    assert max(sizes(core, short, 1000, Typical())) == size


def test_a_type_that_has_not_run_for_hours_is_known_to_a_new_process(
    core: PrivateConnection, short: str
) -> None:
    ran(short, MEASURED).flush(core)
    core.fetch("UPDATE esteira_stat SET minute = minute - interval '5 hours'")

    assert max(sizes(core, short, 1000, Typical())) == BATCH_MAX


def test_the_latest_hour_decides_if_it_has_enough_runs(core: PrivateConnection, short: str) -> None:
    ran(short, 1000).flush(core)
    core.fetch("UPDATE esteira_stat SET minute = minute - interval '5 hours'")
    ran(short, MEASURED, seconds=1.0).flush(core)

    assert sizes(core, short, 100, Typical()) == [1] * 100


def test_short_jobs_travel_together_when_many_wait_and_alone_when_few_do(
    core: PrivateConnection, short: str
) -> None:
    typical = Typical()
    ran(short, MEASURED).flush(core)

    assert max(sizes(core, short, 1000, typical)) == BATCH_MAX
    assert sizes(core, short, 10, typical) == [1] * 10


def test_a_batch_takes_a_fifth_of_a_second_at_most(core: PrivateConnection, short: str) -> None:
    typical = Typical()
    ran(short, MEASURED, seconds=0.05).flush(core)

    assert max(sizes(core, short, 1000, typical)) == 4


def test_a_run_time_that_a_long_list_waits_for_is_known_within_a_second(
    core: PrivateConnection, short: str
) -> None:
    typical = Typical()
    assert max(sizes(core, short, 1000, typical)) == GUESS_MAX
    ran(short, MEASURED).flush(core)

    until(lambda: max(sizes(core, short, 1000, typical)) == BATCH_MAX, "it is known", timeout=1.0)


def test_the_first_run_of_a_type_and_its_twentieth_are_flushed_at_once(
    core: PrivateConnection, short: str
) -> None:
    stats, at_once = Stats(), []
    for run in range(1, 3 * MEASURED):
        stats.add(short, "default", "succeeded", 0.001)
        if stats.awaited():
            at_once.append(run)
            stats.flush(core)

    assert at_once == [1, MEASURED]


def test_what_does_not_succeed_is_not_flushed_at_once() -> None:
    stats = Stats()
    stats.add("tests.short", "default", "failed", 0.001)

    assert not stats.awaited()
