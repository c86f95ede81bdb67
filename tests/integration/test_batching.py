"""How much goes into one hint: measured run times decide, and the first ones are known soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esteira import job
from esteira.broker.batching import BATCH_MAX, CACHE_S, Typical, hints
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
    return [len(hint.ids) for hint in hints([(job.choices, [job.id]) for job in jobs], typical)]


def test_a_type_that_is_not_measured_goes_alone(core: PrivateConnection, short: str) -> None:
    typical = Typical()
    ran(short, MEASURED - 1).flush(core)

    assert sizes(core, short, 100, typical) == [1] * 100


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


def test_a_run_time_that_a_long_list_waits_for_is_known_soon(core: PrivateConnection, short: str) -> None:
    typical = Typical()
    assert sizes(core, short, 100, typical) == [1] * 100
    ran(short, MEASURED).flush(core)

    until(
        lambda: max(sizes(core, short, 100, typical)) > 1,
        "the run time is known",
        timeout=CACHE_S / 2,
    )


def test_the_first_runs_of_a_type_are_measured_once(core: PrivateConnection, short: str) -> None:
    few, many = ran(short, MEASURED - 1), ran(short, MEASURED)
    assert not few.first_measured()
    assert many.first_measured()

    many.flush(core)
    for _ in range(MEASURED):
        many.add(short, "default", "succeeded", 0.001)

    assert not many.first_measured()
