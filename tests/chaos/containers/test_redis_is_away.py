"""Redis is removed, loses its volume, has no memory left: jobs are accepted, wait, and run when it is back."""

from __future__ import annotations

import pytest
import redis as redis_client

from tests.support.compose_under_load import MEMORY, ComposeStackUnderLoad
from tests.support.invariants import check
from tests.support.load import Measured, mixed, outage
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long

BLOCK = b"x" * 64 * 1024
ROOM = 4 * 1024 * 1024


def test_the_volume_of_redis_is_lost(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    worker, _ = stack.ids("worker")
    volume = f"{stack.project}_redis"
    # The one-shot that gave the volume to Redis' user refers to it too.
    holders = [*stack.ids("redis"), *stack.ids("secrets", all_too=True)]
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    watch = Stopwatch()
    stack.docker("rm", "-f", *holders)
    stack.docker("volume", "rm", volume)
    stack.start("redis")
    away = watch.seconds

    measured(stack.flows_again(), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    assert stack.docker("volume", "inspect", volume)


def test_jobs_are_accepted_while_there_is_no_redis(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Zero replicas, longer than a lease."""
    worker, _ = stack.ids("worker")
    api = stack.api()
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    watch = Stopwatch()
    stack.compose("up", "-d", "--no-recreate", "--no-deps", "--scale=redis=0", "redis")
    assert not stack.ids("redis", all_too=True)
    ids += [api.submit(f"away-{n}", "effects.work", {"seconds": 0.05}) for n in range(LOAD // 4)]
    outage(stack.lease_s)
    waiting = stack.db.counts(list(api.accepted.values()))
    stack.start("redis")
    away = watch.seconds

    measured(stack.flows_again(), stack.lease_s + GRACE_S, away=away)
    assert waiting == {"queued": LOAD // 4}, "jobs ran without Redis; the test is blunt"
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_redis_has_no_memory_left(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Its limit is lowered below what it holds, and raised again after a lease."""
    worker, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    with stack.redis("admin") as admin:
        # Half of it, not next to nothing: a quarter of the limit is all that clients may take, the one that mends it too.
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"]) // 2)
        ids += mixed(stack, LOAD)
        outage(stack.lease_s)
        assert is_full(admin)
        admin.config_set("maxmemory", MEMORY)

    measured(stack.flows_again(), stack.lease_s + GRACE_S)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_redis_is_filled_by_somebody_else(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """A foreign list takes all that there was: the keeper frees its own, and publishes fewer hints. Nobody intervenes."""
    worker, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    with stack.redis("admin") as admin:
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"]) + ROOM)
        filled = False
        while not filled:
            try:
                admin.rpush("somebody:list", BLOCK)
            except redis_client.exceptions.OutOfMemoryError:
                filled = True
        ids += mixed(stack, LOAD)
        measured(ends_a_new_one(stack, ids), stack.lease_s + GRACE_S)
        stack.wait_ended()
        check(stack.db, ids, crashed=False)
        assert admin.llen("somebody:list") > 0


def ends_a_new_one(stack: ComposeStackUnderLoad, ids: list[str]) -> float:
    """Submit what goes first, and return after how many seconds one of it has ended."""
    watch = Stopwatch()
    first = stack.submit("plain.nap", 4, priority="high")
    ids += first
    stack.until(lambda: stack.db.counts(first).get("succeeded"), "a new job has ended", timeout=60)
    return watch.seconds


def is_full(admin: redis_client.Redis) -> bool:
    with pytest.raises(redis_client.exceptions.OutOfMemoryError):
        admin.set("room", "none")
    return True
