"""Each part is killed once under load: what was accepted ends, once, and work goes on within a lease.

What docker restarts is killed by its process id; a container that `docker kill` ends stays down.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.support.compose_under_load import ComposeStackUnderLoad, kill
from tests.support.invariants import check
from tests.support.load import Measured, mixed
from tests.support.under_load import GRACE_S, LOAD
from tests.support.waiting import Stopwatch

CLIENTS = 4


def test_kill_a_worker_beside_another(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    victim, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    stack.docker("kill", "-s", "KILL", victim)

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S)
    stack.wait_ended()
    check(stack.db, ids)


def test_kill_a_pool_process(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Its parent notices at once; nobody waits for the lease."""
    victim, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    kill(*stack.pool(victim))

    measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S)
    stack.wait_ended()
    check(stack.db, ids)


def test_kill_beat(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Jobs whose time has come are published by beat alone: they show when it is back."""
    worker, _ = stack.ids("worker")
    (beat,) = stack.ids("beat")
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    watch = Stopwatch()
    stack.kill(beat)
    due = stack.submit("plain.nap", 4, delay=0.5, priority="high")
    stack.wait_back("beat")
    away = watch.seconds

    stack.until(lambda: stack.db.counts(due).get("succeeded"), "a due job has ended")
    measured(watch.seconds - away, stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, [*ids, *due], crashed=False)


def test_kill_web(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Clients repeat what got no answer under the same key: one job each, and every answer names a row."""
    worker, _ = stack.ids("worker")
    (web,) = stack.ids("web")
    api, enough = stack.api(), threading.Event()
    ids = mixed(stack, LOAD)

    def client(number: int) -> int:
        sent = 0
        while not enough.is_set():
            api.submit(f"{number}-{sent}", "effects.work", {"seconds": 0})
            sent += 1
        return sent

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            stack.until(lambda: len(api.accepted) >= 20, "jobs are accepted")
            stack.halfway(ids, worker)
            watch = Stopwatch()
            stack.kill(web)
            stack.wait_back("web")
            away, before = watch.seconds, len(api.accepted)
            stack.until(lambda: len(api.accepted) > before, "jobs are accepted again")
            measured(watch.seconds - away, stack.lease_s + GRACE_S, away=away)
        finally:
            enough.set()
        sent = sum(one.result() for one in clients)

    first = dict(api.accepted)
    for key in list(first)[::10]:
        api.submit(key, "effects.work", {"seconds": 0})
    assert api.accepted == first, "a repeated key was answered with another job"
    stack.wait_ended()
    check(stack.db, [*ids, *first.values()], crashed=False)
    assert stack.db.one("SELECT count(*) FROM esteira_job") == len(ids) + sent


def test_kill_redis(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Leases are kept in PostgreSQL: nobody is suspected."""
    survives(stack, measured, "redis", crashed=False)


def test_kill_postgres(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Suspected is at most what a process had claimed without hearing so, and what lost its connection in a completion."""
    survives(stack, measured, "postgres", crashed=True)

    reasons = stack.db.fetch("SELECT detail->>'reason' FROM esteira_jobevent WHERE kind = 'rescued'")
    assert len(reasons) <= 2 * int(stack.settings["CONCURRENCY"])
    assert set(reasons) <= {("lease ended",), ("connection lost",)}


def test_kill_flower(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Nothing depends on it: jobs do not even pause."""
    worker, _ = stack.ids("worker")
    (flower,) = stack.ids("flower")
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    stack.kill(flower)

    measured(stack.flows_again(), stack.lease_s + GRACE_S)
    stack.wait_ended()
    stack.wait_back("flower")
    check(stack.db, ids, crashed=False)


def survives(stack: ComposeStackUnderLoad, measured: Measured, service: str, *, crashed: bool) -> None:
    """Kill a server; once it is back, work goes on."""
    worker, _ = stack.ids("worker")
    (victim,) = stack.ids(service)
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    watch = Stopwatch()
    stack.kill(victim)
    stack.wait_back(service)
    away = watch.seconds

    measured(stack.flows_again(), stack.lease_s + GRACE_S, away=away)
    stack.wait_ended()
    check(stack.db, ids, crashed=crashed)


def test_flushall(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    worker, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    stack.halfway(ids, worker)

    with stack.redis("admin") as admin:
        admin.flushall()

    measured(stack.flows_again(), stack.lease_s + GRACE_S)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_pause_a_worker_past_its_lease(stack: ComposeStackUnderLoad, measured: Measured) -> None:
    """Another takes over; what the paused one says when it wakes is refused."""
    victim, _ = stack.ids("worker")
    ids = mixed(stack, LOAD)
    was = stack.catch(ids, victim)

    with stack.paused(victim):
        measured(stack.run_again(list(was), was), stack.lease_s + GRACE_S)
        stack.until(lambda: not stack.held(victim), "nothing is left to the paused worker")

    stack.until(lambda: "refused: attempt" in stack.said(victim), "its late results are refused")
    stack.wait_ended()
    check(stack.db, ids)
