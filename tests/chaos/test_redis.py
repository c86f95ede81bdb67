"""Redis is killed, wiped, frozen, filled and away; jobs are accepted all the while, and none is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis as redis_client

from esteira.record.insert import SLICE
from project.local.embedded import Valkey
from tests.support.invariants import check, check_hints
from tests.support.load import JOBS, Measured, mixed, outage
from tests.support.process_stack import ProcessStack
from tests.support.waiting import Stopwatch

#: How often Redis is killed under one worker, and how long it is away; KILLS=20 OUTAGE=60 for the long way.
KILLS, OUTAGE_S = int(os.environ.get("KILLS", "2")), float(os.environ.get("OUTAGE", "6"))

#: A loop that shows no sign for so long is taken for stuck (services/worker/healthy); and how long Redis is frozen.
SIGN_S, FROZEN_S = 15.0, 30.0

#: A worker opens a few connections whenever it connects, and does so once a second at most.
MOST_PER_S = 6


@pytest.fixture
def steady(stack: ProcessStack) -> Iterator[ProcessStack]:
    """A stack with one worker and one beat, which must both live through whatever happens to Redis."""
    processes = stack.worker("w1"), stack.beat()
    yield stack
    dead = {process.name: process.last_words() for process in processes if not process.alive()}
    assert not dead, "\n".join(f"{name} ended:\n{words}" for name, words in dead.items())


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server from answering without closing a connection."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.kills
def test_redis_kill(steady: ProcessStack, measured: Measured) -> None:
    """Killed again and again under load, with everything in it lost each time."""
    steady.submitter.start()
    ids: list[str] = []

    for _ in range(KILLS):
        new = mixed(steady, JOBS // 2)
        ids += new
        steady.halfway(new, "w1")
        steady.valkey.kill()
        steady.valkey.start()
        measured(steady.flows_again(), 3.0)

    steady.wait_ended()
    check(steady.db, ids, crashed=False)


@pytest.mark.kills
def test_redis_flush(steady: ProcessStack, measured: Measured) -> None:
    ids = mixed(steady)
    steady.halfway(ids, "w1")

    steady.redis.flushall()

    measured(steady.flows_again(), 3.0)
    steady.wait_ended()
    check(steady.db, ids, crashed=False)


def test_redis_loses_the_lists_of_a_queue(steady: ProcessStack, measured: Measured) -> None:
    ids = mixed(steady)
    steady.halfway(ids, "w1")

    keys = [key for key in steady.redis.keys("*default*") if steady.redis.type(key) == b"list"]
    assert keys and steady.redis.delete(*keys)

    measured(steady.flows_again(), 3.0)
    steady.wait_ended()
    check(steady.db, ids, crashed=False)


def test_redis_is_away_for_long(steady: ProcessStack, measured: Measured) -> None:
    """Nothing is suspected meanwhile: leases are kept in PostgreSQL."""
    ids = mixed(steady)
    steady.halfway(ids, "w1")

    steady.valkey.kill()
    outage(OUTAGE_S)
    ids += steady.submit("effects.work", 20)
    steady.valkey.start()

    measured(steady.flows_again(), 3.0)
    steady.wait_ended()
    check(steady.db, ids, crashed=False)


@pytest.mark.kills
def test_redis_freezes(steady: ProcessStack, measured: Measured) -> None:
    """No connection is closed; only the silence tells."""
    ids = mixed(steady)
    steady.halfway(ids, "w1")

    with frozen(steady.valkey.pid):
        outage(OUTAGE_S)

    measured(steady.flows_again(), 3.0)
    steady.wait_ended()
    check(steady.db, ids, crashed=False)


@pytest.mark.kills
def test_a_frozen_redis_makes_nobody_look_stuck(stack: ProcessStack, measured: Measured) -> None:
    """Or health checks would restart all workers, and cut off what they run; a pool process that dies meanwhile is replaced."""
    parts = {"worker": stack.worker("w1"), "beat": stack.beat()}
    ids = mixed(stack)
    stack.halfway(ids, "w1")
    many = len(parts["worker"].children())
    oldest, watch = dict.fromkeys(parts, 0.0), Stopwatch()

    with frozen(stack.valkey.pid):
        outage(1)
        parts["worker"].children()[0].send_signal(signal.SIGKILL)
        while watch.seconds < FROZEN_S:
            outage(0.2)
            for name, process in parts.items():
                oldest[name] = max(oldest[name], process.age_of(name))

    assert all(age < SIGN_S for age in oldest.values()), oldest
    measured(stack.flows_again(), 3.0)
    stack.until(lambda: len(parts["worker"].children()) == many, "the pool is whole again")
    stack.wait_ended()
    check(stack.db, ids)


def test_redis_is_full(steady: ProcessStack) -> None:
    """Whatever it refuses to store, jobs are accepted, and they run once there is room."""
    first = mixed(steady, 80)
    steady.redis.config_set("maxmemory", "1")

    ids = [*first, *mixed(steady, 80)]
    with pytest.raises(redis_client.exceptions.OutOfMemoryError):
        steady.redis.set("room", "none")
    steady.redis.config_set("maxmemory", "256mb")

    steady.wait_ended()
    check(steady.db, ids, crashed=False)


def test_a_full_redis_is_not_stormed(stack: ProcessStack) -> None:
    """A worker that is refused at once connects anew, and each connection takes memory that the others lack."""
    stack.worker("w1")
    stack.redis.config_set("maxmemory", "1")
    before, watch = stack.redis.info("stats")["total_connections_received"], Stopwatch()
    stack.redis.client_kill_filter(skipme=True)

    outage(10)

    made = stack.redis.info("stats")["total_connections_received"] - before
    assert made < MOST_PER_S * watch.seconds, f"{made} connections in {watch.seconds:.0f} s"


def test_a_monitor_that_stopped_reading_fills_redis(
    make_stack: Callable[..., ProcessStack], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Celery's events pile up for a frozen Flower until Redis refuses hints; nobody lends a hand."""
    small = Valkey(tmp_path / "small", options={"maxmemory": "4mb"})
    small.start()
    request.addfinalizer(small.kill)
    stack = make_stack(REDIS_URL=small.url, FLOWER_UNAUTHENTICATED_API="true")
    worker, beat = stack.worker("w1"), stack.beat()
    listeners = stack.listeners()
    flower = stack.flower()

    flower.signal_all(signal.SIGSTOP)
    ids = fill_what_the_kernel_keeps(stack)
    while not refused(small) and len(ids) < 20_000:
        ids += stack.submit("effects.work", [{"seconds": 0}] * 500)
        stack.wait_ended()
    assert refused(small), "Redis was never full; the test is blunt"
    ids += mixed(stack)

    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    assert worker.alive() and beat.alive()
    flower.signal_all(signal.SIGCONT)
    stack.until(lambda: stack.listeners() > listeners, "Flower listens again")


def fill_what_the_kernel_keeps(stack: ProcessStack) -> list[str]:
    """Repeat one event of Celery's until Redis itself has to keep more; return the job that it was of."""
    with stack.redis.pubsub() as heard:
        heard.psubscribe("*celeryev*")
        ids = stack.submit("effects.work", [{"seconds": 0}])
        event = stack.until(lambda: heard.get_message(ignore_subscribe_messages=True), "an event is heard")
    message = json.loads(event["data"])
    message["headers"]["room"] = "x" * 100_000
    for _ in range(1000):
        if any(int(client["omem"]) for client in stack.redis.client_list(_type="pubsub")):
            return ids
        stack.redis.publish(event["channel"], json.dumps(message))
    raise AssertionError("the kernel keeps more than 100 MB")


def refused(server: Valkey) -> int:
    """Return how often a server has refused to store something because its memory is full."""
    with redis_client.Redis.from_url(server.url) as client:
        said = client.info("errorstats").get("errorstat_OOM", {})
    return int(said.get("count", 0))


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_submits_do_not_wait_for_redis(steady: ProcessStack, measured: Measured, how: str) -> None:
    first = mixed(steady, 40)
    steady.wait_ended()

    if how == "refused":
        steady.valkey.kill()
        took = steady.submitter.submit_each("effects.work", [{}] * 100)
        steady.valkey.start()
    else:
        with frozen(steady.valkey.pid):
            took = steady.submitter.submit_each("effects.work", [{}] * 100)

    assert len(took) == 100, steady.submitter.refused
    measured(sorted(took)[98], 0.5)
    steady.wait_ended()
    check(steady.db, [*first, *steady.submitter.acknowledged], crashed=False)


@pytest.mark.kills
def test_a_submitting_program_is_killed(steady: ProcessStack) -> None:
    """Every id that it was told is a row; what was stored without an answer runs as well, once."""
    for _ in range(3):
        steady.submitter.start()
        steady.submitter.ask(type="effects.work", many=[{"seconds": 0}] * 5000, each=True)
        answers = steady.submitter.answers()
        for _ in range(50):
            next(answers)
        steady.submitter.kill()

    steady.wait_ended(timeout=120)
    assert len(steady.submitter.acknowledged) >= 150
    check(steady.db, steady.submitter.acknowledged, crashed=False)


def test_the_lists_in_redis_stay_within_their_window(make_stack: Callable[..., ProcessStack]) -> None:
    """However long the backlog, Redis holds a window of it; a submitter may add its last slice on top."""
    stack = make_stack(WINDOW="10")
    stack.beat()
    ids = stack.submit("plain.nap", [{"seconds": 0}] * 3500)
    stack.until(lambda: longest_list(stack) >= 10, "the window is full")

    stack.worker("w1")
    watch = Stopwatch()
    seen = 0
    while stack.db.counts(ids).get("queued", 0) and watch.seconds < 60:
        seen = max(seen, longest_list(stack))

    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    check_hints(seen, window=10 + SLICE, slots=2)


def longest_list(stack: ProcessStack) -> int:
    """Return the length of the longest of Redis' lists."""
    client = stack.redis
    return max((int(client.llen(key)) for key in client.keys("*") if client.type(key) == b"list"), default=0)
