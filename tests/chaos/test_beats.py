"""Beats are killed and frozen in any number: no tick is missed or doubled, and no running job is rescued."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from tests.support.invariants import check, check_ticks
from tests.support.load import JOBS, Measured, mixed, outage
from tests.support.process_stack import ProcessStack
from tests.support.waiting import Stopwatch

#: How long beats are killed; BEATS_SECONDS=60 for the long way.
SECONDS = float(os.environ.get("BEATS_SECONDS", "15"))
TICK = "ticking_jobs.tick"


@pytest.mark.kills
def test_beat_kill_x3(make_stack: Callable[..., ProcessStack]) -> None:
    """Three keepers and no leader: each tick makes one job, whoever is killed in between."""
    stack = make_stack(JOB_PACKAGES="tests.support.chaos_jobs,tests.support.ticking_jobs")
    stack.manage("migrate", "--verbosity", "0")
    stack.worker("w1")
    beats = [stack.beat(f"beat{n}") for n in range(3)]
    chance, watch, kills = random.Random(7), Stopwatch(), 0

    while watch.seconds < SECONDS:
        victim = chance.choice(beats)
        victim.kill()
        stack.again(victim, wait=False)
        kills += 1
        outage(chance.uniform(0.5, 2.5))

    beat = beats[0]
    for one in beats:
        stack.wait_ready(one)
    stack.until(lambda: ticks(stack) >= SECONDS, "the ticks have been made up")
    stack.db.fetch("UPDATE esteira_schedule SET enabled = false")
    stack.wait_ended()
    check(stack.db, crashed=False)
    check_ticks(stack.db, TICK, at_least=int(SECONDS))
    assert kills >= 5 and beat.alive()


@pytest.mark.kills
def test_kill_beat(stack: ProcessStack, measured: Measured) -> None:
    """The only beat dies in the middle of the work; its successor publishes the waiting jobs."""
    beat, _ = stack.beat(), stack.worker("w1")
    ids = mixed(stack, 3 * JOBS)  # more than are done until its next life has started
    stack.halfway(ids, "w1")

    beat.kill()
    watch = Stopwatch()
    stack.again(beat)

    stack.flows_again()
    measured(watch.seconds, 5.0)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def ticks(stack: ProcessStack) -> int:
    return int(stack.db.one("SELECT count(*) FROM esteira_job WHERE tick_at IS NOT NULL"))


def test_ticks_are_made_up_after_every_beat_was_away(make_stack: Callable[..., ProcessStack]) -> None:
    """The schedule wants every missed tick; each comes once."""
    stack = make_stack(JOB_PACKAGES="tests.support.chaos_jobs,tests.support.ticking_jobs")
    stack.manage("migrate", "--verbosity", "0")
    stack.worker("w1")
    beat = stack.beat()
    stack.until(lambda: ticks(stack) >= 2, "the schedule ticks")

    beat.kill()
    outage(4)
    before = ticks(stack)
    stack.again(beat)

    stack.until(lambda: ticks(stack) >= before + 4, "the ticks have been made up")
    stack.db.fetch("UPDATE esteira_schedule SET enabled = false")
    stack.wait_ended()
    check_ticks(stack.db, TICK, at_least=before + 4)
    check(stack.db, crashed=False)


@pytest.mark.kills
def test_a_frozen_beat_that_comes_back_rescues_nobody_who_lives(stack: ProcessStack) -> None:
    beat, _ = stack.beat(), stack.worker("w1")
    ids = mixed(stack, 80)
    long = stack.submit("effects.work", [{"seconds": 8}] * 2)
    stack.until(lambda: stack.db.counts(long).get("running") == 2, "the long jobs run", timeout=60)

    beat.signal_all(signal.SIGSTOP)
    outage(stack.lease_s * 2)
    beat.signal_all(signal.SIGCONT)

    stack.wait_ended()
    check(stack.db, [*ids, *long], crashed=False)


@pytest.mark.kills
def test_another_beat_takes_over_from_a_frozen_one(stack: ProcessStack, measured: Measured) -> None:
    frozen, _, victim, _ = stack.beat("beat1"), stack.beat("beat2"), stack.worker("w1"), stack.worker("w2")
    ids = mixed(stack)
    lost = stack.halfway(ids, "w1")
    was = stack.db.attempts(lost)

    frozen.signal_all(signal.SIGSTOP)
    victim.kill()

    measured(stack.run_again(lost, was), stack.lease_s + 1.5)
    frozen.signal_all(signal.SIGCONT)
    stack.wait_ended()
    check(stack.db, ids)


@pytest.mark.kills
def test_beat_leaves_on_sigterm_at_once(stack: ProcessStack) -> None:
    beat = stack.beat()
    watch = Stopwatch()

    beat.signal(signal.SIGTERM)
    stack.until(lambda: not beat.alive(), "beat has left")

    assert watch.seconds < 10


def test_delayed_and_retrying_jobs_wait_in_the_table_and_not_in_a_process(stack: ProcessStack) -> None:
    """Everything is killed while they wait; they run at their time all the same, once."""
    worker, beat = stack.worker("w1"), stack.beat()
    ids = [*stack.submit("effects.work", 10, delay=4), *stack.submit("effects.flaky", [{"times": 2}] * 10)]
    stack.until(
        lambda: stack.db.one("SELECT count(*) FROM esteira_job WHERE failures > 0"), "some have failed"
    )

    worker.kill()
    beat.kill()
    stack.valkey.kill()
    stack.valkey.start()
    stack.again(worker)
    stack.again(beat)

    stack.wait_ended()
    check(stack.db, ids)
    early = "SELECT count(*) FROM esteira_job WHERE started_at < run_at OR claimed_at < run_at"
    assert not stack.db.one(early)
