"""The database's clock steps under running jobs: nobody who lives is rescued, and whoever dies is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.clocks import movable
from tests.support.invariants import check
from tests.support.stack import Stack


@pytest.mark.parametrize("seconds", [30, -3600])
def test_a_step_of_the_clock_costs_no_attempt_and_hides_no_dead_worker(
    make_stack: Callable[..., Stack], seconds: float
) -> None:
    stack = make_stack()
    with movable(stack.db.url) as move:
        stack.db.close()
        victim, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
        ids = stack.submit("effects.work", [{"seconds": 4 * stack.lease_s}] * 3)
        stack.until(lambda: stack.db.counts(ids).get("running") == 3, "all run")

        move(seconds)
        short = stack.submit("effects.work", 5)
        stack.wait_ended(short)
        stack.until(lambda: _held_until_it_was_over(stack), "rescues were on hold, and are not any more")
        assert not stack.db.one("SELECT count(*) FROM esteira_jobevent")

        lost = [
            row[0]
            for row in stack.db.fetch(
                "SELECT id FROM esteira_job WHERE state = 'running' AND worker LIKE 'w1@%%'"
            )
        ]
        was = stack.db.attempts(lost)
        victim.kill()
        stack.run_again(lost, was)
        stack.again(victim)
        stack.wait_ended()
        if seconds > 0:  # else ends stand before starts, as they must
            check(stack.db, [*ids, *short])
        assert stack.db.counts() == {"succeeded": 8}
        assert stack.db.one("SELECT count(DISTINCT job_id) = count(*) FROM effect")
    stack.db.close()


def _held_until_it_was_over(stack: Stack) -> bool:
    return bool(stack.db.one("SELECT hold_until < clock_timestamp() FROM esteira_keeper"))
