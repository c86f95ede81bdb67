"""A worker loses the network to one server alone, for longer than a lease."""

from __future__ import annotations

import pytest

from tests.support.compose_under_load import ComposeStackUnderLoad
from tests.support.invariants import check
from tests.support.load import Measured, mixed, outage
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long


def test_a_worker_is_cut_off_from_redis(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """It ends what it holds and gets no more; hints that were on their way to it are found missing."""
    victim, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    stack.catch(ids, victim)

    with stack.cut(victim, "redis"):
        stack.until(lambda: not stack.held(victim), "the victim has ended what it held")
        outage(stack.lease_s)
        during = stack.submit("effects.work", 20)
        stack.wait_ended(during)
        assert done_by(stack, victim, during) == 0, "it was not cut off; the test is blunt"

    measured(works_again(stack, victim, ids), stack.lease_s + GRACE_S)
    stack.wait_ended()
    check(stack.db, [*ids, *during], crashed=False)


def test_a_worker_is_cut_off_from_postgres(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Nobody hears how its jobs end: another does them, and it learns that they are not its own."""
    victim, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    with stack.cut(victim, "postgres"):
        measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S, "elsewhere")
        outage(stack.lease_s)
        assert not stack.held(victim), "it was not cut off; the test is blunt"

    measured(works_again(stack, victim, ids), stack.lease_s + GRACE_S, "healed")
    stack.wait_ended()
    check(stack.db, ids)


def works_again(stack: ComposeStackUnderLoad, victim: str, ids: list[str]) -> float:
    """Submit more, and return after how many seconds a worker that was cut off holds jobs again."""
    watch = Stopwatch()
    while not stack.held(victim):
        assert watch.seconds < 60, "the worker that was cut off does not come back"
        more = mixed(stack, 40)
        ids += more
        stack.until(
            lambda more=more: stack.held(victim) or not stack.db.counts(more).get("queued"),  # type: ignore[misc]
            "somebody takes the jobs",
        )
    return watch.seconds


def done_by(stack: ComposeStackUnderLoad, worker: str, ids: list[str]) -> int:
    return int(
        stack.db.one(
            "SELECT count(*) FROM esteira_job WHERE id = ANY(%s::uuid[]) AND starts_with(worker, %s)",
            [ids, stack.names_of(worker)],
        )
    )
