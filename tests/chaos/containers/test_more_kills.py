"""The only worker dies, everything dies at once, everything is restarted in an orderly way."""

from __future__ import annotations

import pytest

from tests.support.compose_stack import PARTS
from tests.support.compose_under_load import ComposeStackUnderLoad
from tests.support.invariants import check
from tests.support.load import Measured, mixed
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long


def test_kill_the_only_worker(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Docker starts it again under its name. It cannot see that its earlier life is over: a sibling of that name may live
    in another container. So its jobs come back with their leases, or at once if it was given the same namespace again.
    """
    victim, other = stack.ids("worker")
    stack.docker("stop", other)
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    watch = Stopwatch()
    stack.kill(victim)
    stack.wait_back("worker")
    away = watch.seconds

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids)


def test_docker_kill_the_only_worker(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Docker leaves alone what `docker kill` ended; somebody starts it again."""
    victim, other = stack.ids("worker")
    stack.docker("stop", other)
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    watch = Stopwatch()
    stack.docker("kill", "-s", "KILL", victim)
    assert not stack.ids("worker")
    stack.docker("start", victim)
    stack.wait_back("worker")
    away = watch.seconds

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids)


def test_kill_everything_at_once(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """As when the machine's power fails: PostgreSQL's disk is all that is left."""
    workers = stack.ids("worker")
    everything = [one for service in PARTS for one in stack.ids(service)]
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, *workers)

    watch = Stopwatch()
    stack.kill(*everything)
    for service in ("postgres", "redis", "beat", "worker"):
        stack.wait_back(service)
    away = watch.seconds

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids)


def test_restart_everything_at_once(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """`docker compose restart`: workers drain while their servers go away."""
    workers = stack.ids("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, *workers)
    before = stack.inspect(workers[0])["State"]["StartedAt"]

    watch = Stopwatch()
    stack.compose("restart", *PARTS)
    for service in ("postgres", "redis", "beat", "worker"):
        stack.wait_back(service)
    away = watch.seconds

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S, away=away)
    assert stack.inspect(workers[0])["State"]["StartedAt"] != before
    stack.wait_ended()
    check(stack.db, ids)
