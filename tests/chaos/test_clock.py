"""The database's clock steps: leases end in a moment, and those who hold them live."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.database_clock import movable
from tests.support.invariants import check
from tests.support.load import Measured, mixed
from tests.support.process_stack import ProcessStack

pytestmark = pytest.mark.kills


def test_kill_a_worker_after_the_clock_stepped_forward(
    make_stack: Callable[..., ProcessStack], measured: Measured
) -> None:
    """Thirty seconds in a moment, ten leases: no healthy job is rescued, and the dead are found as before."""
    stack = make_stack(LEASE_SECONDS="3")
    with movable(stack.db.url) as move:
        stack.db.close()
        victim, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
        ids = mixed(stack)
        long = stack.submit("plain.nap", [{"seconds": 6}] * 2, priority="high")
        stack.until(lambda: stack.db.counts(long).get("running") == 2, "the long jobs run")
        stack.halfway(ids, "w1", "w2")

        move(30)

        stack.wait_ended()
        check(stack.db, [*ids, *long], crashed=False)
        assert stack.db.fetch("SELECT kind, detail FROM esteira_jobevent") == []

        ids += (more := mixed(stack))
        lost = stack.halfway(more, "w1")
        was = stack.db.attempts(lost)
        victim.kill()
        measured(stack.run_again(lost, was), stack.lease_s + 1.5)
        stack.wait_ended()
        check(stack.db, [*ids, *long])


def test_kill_a_worker_after_the_clock_stepped_back(
    make_stack: Callable[..., ProcessStack], measured: Measured
) -> None:
    """A minute back: leases seem to last for long, and the dead are found within about one all the same."""
    stack = make_stack(LEASE_SECONDS="3")
    with movable(stack.db.url) as move:
        stack.db.close()
        move(60)
        victim, _ = stack.worker("w1"), stack.beat()
        ids = stack.submit("effects.deaf", [{"seconds": 20}] * 2)
        stack.until(lambda: len(stack.db.held_by("w1@")) == 2, "both jobs run")
        stack.worker("w2")
        was = stack.db.attempts(stack.db.held_by("w1@"))

        move(-60)
        victim.kill()

        measured(stack.run_again(list(was), was), 2 * stack.lease_s + 1.5)
        stack.wait_ended()
        check(stack.db, ids)
