"""More ways to end pods: with and without a grace period, by eviction, with a lost volume, and all beats."""

from __future__ import annotations

import pytest

from tests.chaos.kubernetes.test_pods import server_goes
from tests.support.invariants import check, check_ticks
from tests.support.journey import TICK
from tests.support.kubernetes_under_load import WORKERS, KubernetesStackUnderLoad
from tests.support.load import Measured, mixed
from tests.support.remote_stack import CHAOS_JOBS
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long

BEAT_KILLS = 5


def test_delete_a_worker_with_its_grace(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """It drains: what it holds ends in its first attempt."""
    victim, _ = stack.names("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    stack.delete_pods(victim)

    measured(stack.flows_again(), stack.lease_s + GRACE_S)
    stack.wait_ended()
    assert not stack.cut_off([str(one) for one in was])
    check(stack.db, ids, crashed=False)


def test_delete_redis_with_its_grace(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    server_goes(stack, measured, "redis", force=False)


def test_the_volume_of_redis_is_lost(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    server_goes(stack, measured, "redis", force=False, volume=True)


@pytest.mark.parametrize("force", [False, True], ids=["with grace", "by force"])
def test_delete_postgres(stack: KubernetesStackUnderLoad, measured: Measured, force: bool) -> None:
    """Suspected is at most what a process had claimed without hearing so."""
    server_goes(stack, measured, "postgres", force=force, crashed=True)

    reasons = stack.db.fetch("SELECT detail->>'reason' FROM esteira_jobevent WHERE kind = 'rescued'")
    assert set(reasons) <= {("lease ended",), ("connection lost",)}


def test_delete_web(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """One of two, with its grace: the other answers, and no visitor notices."""
    victim, _ = stack.names("web")
    ids = mixed(stack, LOAD)
    with stack.visitors() as wrong:
        stack.delete_pods(victim)
        measured(stack.flows_again(), stack.lease_s + GRACE_S)
        stack.until(lambda: len(stack.ready("web")) == 2, "two webs again", timeout=120)

    assert not wrong
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_drain_the_workers(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """All are evicted, as by `kubectl drain`: one after the other, because the budget allows no more."""
    old = stack.names("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, *old)

    watch, refused = Stopwatch(), 0
    allowed = [stack.evict(pod) for pod in old]
    assert allowed.count(True) == 1, "the budget lets one go at a time"
    waiting = [pod for pod, gone in zip(old, allowed, strict=True) if not gone]
    while waiting:
        if stack.evict(waiting[0]):
            waiting.pop(0)
        else:
            refused += 1
            stack.until(lambda: len(stack.ready("worker")) == WORKERS, "a new worker is ready", timeout=120)

    stack.until(
        lambda: len(stack.ready("worker")) == WORKERS and not set(stack.names("worker")) & set(old),
        "all workers are new",
        timeout=120,
    )
    measured(stack.flows_again(), stack.lease_s + GRACE_S, away=watch.seconds)
    stack.wait_ended()
    assert not stack.cut_off([str(one) for one in was])
    check(stack.db, ids, crashed=False)


def test_two_beats_and_one_is_killed_every_few_seconds(
    stack: KubernetesStackUnderLoad, measured: Measured
) -> None:
    """A schedule of a second misses no tick and doubles none."""
    stack.configure(JOB_PACKAGES=f"{CHAOS_JOBS},tests.support.ticking_jobs")
    try:
        ticks = "SELECT count(*) FROM esteira_job WHERE tick_at IS NOT NULL"
        stack.db.fetch("UPDATE esteira_schedule SET enabled = true WHERE name = %s", [TICK])
        stack.until(lambda: stack.db.one(ticks) >= 3, "it ticks", timeout=60)
        for _ in range(BEAT_KILLS):
            before = stack.db.one(ticks)
            stack.delete_pods(stack.ready("beat")[0], force=True)
            watch = Stopwatch()
            stack.until(lambda: stack.db.one(ticks) >= before + 2, "ticks go on", timeout=60)  # noqa: B023
            measured(watch.seconds, 2 + GRACE_S)
            stack.until(lambda: len(stack.ready("beat")) == 2, "two beats again", timeout=120)
    finally:
        stack.db.fetch("UPDATE esteira_schedule SET enabled = false")
    stack.wait_ended()
    check_ticks(stack.db, TICK, at_least=BEAT_KILLS * 2)
    check(stack.db)
