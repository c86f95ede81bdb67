"""What keeping costs while somebody holds an old snapshot: it follows what runs and is due, not what ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as redis_client

from esteira.db import Core
from esteira.hold import Hold
from esteira.missing import Checker
from esteira.publish import Publisher
from esteira.record import rescue
from esteira.sweep import Expirer, Rescuer
from esteira.turns import Turns
from esteira.wire import MARKER
from tests.support.jobs import elapse, look, running, stored
from tests.support.past import Counted, old_snapshot, ran
from tests.support.waiting import until

#: Each leaves at least one dead entry in the indexes of claims, of expiries, of the feed and of what is published.
RAN = 20_000
TURNS = 20
#: A turn of a keeper beside nothing reads a few dozen.
FEW_BLOCKS = 300


@pytest.fixture
def counted(database: None) -> Iterator[Counted]:
    counted = Counted("counted")
    yield counted
    counted.close()


class Sweeper:
    """What a keeper does first in each turn."""

    def __init__(self) -> None:
        self.hold, self.rescuer, self.expirer = Hold(), Rescuer(), Expirer()

    def turns(self, counted: Counted, number: int = TURNS) -> int:
        """Sweep so often; return how many blocks were read."""
        counted.blocks = 0
        for _ in range(number):
            self.rescuer.step(counted, self.hold.look(counted, Turns(), was_away=False))
            self.expirer.step(counted)
        return counted.blocks


def test_a_sweep_does_not_read_again_what_ran(core: Core, counted: Counted) -> None:
    sweeper = Sweeper()
    with old_snapshot():
        ran(core, RAN)
        first = sweeper.turns(counted, 1)

        later = sweeper.turns(counted)

    assert first > FEW_BLOCKS, "a keeper that starts reads everything once, or this test shows nothing"
    assert later < TURNS * FEW_BLOCKS


def test_a_lost_process_is_dealt_with_by_the_keys_of_its_jobs(core: Core, counted: Counted) -> None:
    with old_snapshot():
        ran(core, RAN)
        job = running(core, delivery="d9")[0]
        counted.blocks = 0

        assert rescue.process_lost(counted, "d9", [job.id]) == {job.id: "queued"}

    assert counted.blocks < FEW_BLOCKS


def test_a_worker_that_goes_finds_its_jobs_before_what_ran(core: Core) -> None:
    with old_snapshot():
        ran(core, RAN)
        jobs = running(core, 3, worker="w7/boot")

        assert set(rescue.drained(core, me="w7/boot")) == {job.id for job in jobs}


# --- compare with Redis -----------------------------------------------------------------------------------------------


@pytest.fixture
def publisher(job_types: None) -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def read_once(checker: Checker, db: Core) -> None:
    """Check until everything was read, as a keeper does that starts."""
    until(lambda: checker.check(db) or checker.walk.been_through, "everything was read once")


def test_a_check_does_not_read_again_what_ran(
    core: Core, counted: Counted, publisher: Publisher, redis: redis_client.Redis
) -> None:
    redis.set(f"esteira:{MARKER}", "1")
    checker = Checker(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        read_once(checker, counted)
        first, counted.blocks = counted.blocks, 0

        for _ in range(TURNS):
            checker.check(counted)

    assert first > FEW_BLOCKS, "a keeper that starts reads everything once, or this test shows nothing"
    assert counted.blocks < TURNS * FEW_BLOCKS


def test_a_missing_hint_is_found_beside_what_ran(
    core: Core, publisher: Publisher, redis: redis_client.Redis
) -> None:
    redis.set(f"esteira:{MARKER}", "1")
    checker = Checker(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        read_once(checker, core)
        (old,), (new,) = stored(core, publish=True), stored(core, publish=True)
        elapse(core, old, "published_at", 1800)

        def found() -> bool:
            checker.check(core)
            return look(core, old).published_at is None and look(core, new).published_at is None

        until(found, "both wait for the feed again")


def test_after_redis_lost_everything_no_statement_reads_all_that_ran(
    core: Core,
    counted: Counted,
    publisher: Publisher,
    redis: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esteira.walk.SLICE_LIMIT_S", 0.003)
    checker = Checker(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        (old,), (new,) = stored(core, publish=True), stored(core, publish=True)
        elapse(core, old, "published_at", 1800)

        until(lambda: [checker.check(counted)] and redis.exists(f"esteira:{MARKER}"), "everything was read")

    assert look(core, old).published_at is None and look(core, new).published_at is None
    assert counted.most < 1000, "all at once is 1,600"
