"""What keeping costs while somebody holds an old snapshot: it follows what runs and is due, not what ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esteira.db import Core
from esteira.hold import Hold
from esteira.record import rescue
from esteira.sweep import Expirer, Rescuer
from esteira.turns import Turns
from tests.support.jobs import running
from tests.support.past import Counted, old_snapshot, ran

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
