"""Workers are killed, frozen, drained and started twice; what they ran is done once, elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from uuid import UUID

import psutil
import pytest

from esteira.record import operate
from tests.support.forks import ROOT
from tests.support.invariants import check
from tests.support.load import JOBS, Measured, mixed
from tests.support.process_stack import ProcessStack
from tests.support.waiting import Stopwatch


@pytest.mark.kills
def test_kill_worker(stack: ProcessStack, measured: Measured) -> None:
    victim, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
    ids = mixed(stack)
    lost = stack.halfway(ids, "w1")
    was = stack.db.attempts(lost)

    victim.kill()

    measured(stack.run_again(lost, was), stack.lease_s + 1.5)
    stack.wait_ended()
    check(stack.db, ids)


@pytest.mark.kills
def test_kill_worker_and_start_it_again_under_its_name(
    make_stack: Callable[..., ProcessStack], measured: Measured
) -> None:
    """T9: the newcomer knows that its earlier life is over, and does not wait for the leases."""
    stack = make_stack(LEASE_SECONDS="30")
    victim, _ = stack.worker("w1"), stack.beat()
    ids = mixed(stack)
    lost = stack.halfway(ids, "w1")
    was = stack.db.attempts(lost)

    victim.kill()
    stack.again(victim)

    measured(stack.run_again(lost, was), 3.0)
    stack.wait_ended()
    check(stack.db, ids)
    assert stack.db.one("SELECT count(*) FROM esteira_jobevent WHERE detail->>'reason' = 'worker restarted'")


@pytest.mark.kills
def test_kill_only_the_main_process(stack: ProcessStack, measured: Measured) -> None:
    """The pool's processes end with their parent, or are zombies whose results are refused."""
    victim, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
    ids = mixed(stack)
    lost = stack.halfway(ids, "w1")
    was = stack.db.attempts(lost)

    victim.signal(signal.SIGKILL)

    measured(stack.run_again(lost, was), stack.lease_s + 1.5)
    stack.wait_ended()
    check(stack.db, ids)


@pytest.mark.kills
def test_kill_child(make_stack: Callable[..., ProcessStack], measured: Measured) -> None:
    """T7: the parent notices that a pool process is gone, long before its lease ends."""
    stack = make_stack(LEASE_SECONDS="30")
    worker, _ = stack.worker("w1"), stack.beat()
    ids = mixed(stack)
    stack.halfway(ids, "w1")
    long = stack.submit("effects.deaf", [{"seconds": 4}], priority="high")
    stack.until(lambda: stack.db.counts(long).get("running"), "the long job runs")
    (job,) = long
    was = stack.db.attempts([UUID(job)])

    for child in worker.children():
        child.send_signal(signal.SIGKILL)

    measured(stack.run_again(list(was), was), 6.0)
    stack.wait_ended()
    check(stack.db, [*ids, *long])
    row = stack.db.fetch("SELECT suspicion, failures, attempt FROM esteira_job WHERE id = %s", [job])
    assert row == [(2, 0, 2)]


@pytest.mark.kills
def test_kill_flood(stack: ProcessStack) -> None:
    """Kills under a flood of jobs that take no time: whatever was between two hands is found again."""
    worker, _ = stack.worker("w1"), stack.beat()
    kills, n = int(os.environ.get("KILLS", "2")), max(JOBS * 40, 8000)
    ids = stack.submit("plain.nothing", n)

    for kill in range(kills):
        ended = stack.db.counts(ids).get("succeeded", 0)
        stack.until(
            lambda ended=ended: stack.db.counts(ids).get("succeeded", 0) > ended,  # type: ignore[misc]
            f"jobs end after kill {kill}",
        )
        worker.kill()
        stack.again(worker)

    stack.wait_ended(timeout=120)
    check(stack.db, ids)


@pytest.mark.kills
def test_poison(make_stack: Callable[..., ProcessStack], measured: Measured) -> None:
    """A job that kills its process is dead after three, and nobody else is harmed."""
    stack = make_stack(LEASE_SECONDS="10")
    stack.worker("w1")
    stack.beat()
    ids = mixed(stack, 120)
    watch = Stopwatch()

    (poison,) = stack.submit("crashes.poison", 1)
    ids += stack.submit("plain.nothing", 600)
    stack.until(lambda: stack.db.counts([poison]).get("dead"), "the poison is dead", timeout=60)

    measured(watch.seconds, 20.0)
    stack.wait_ended()
    check(stack.db, [*ids, poison], may_die={"crashes.poison"})
    row = stack.db.fetch("SELECT attempt, suspicion, error->>'type' FROM esteira_job WHERE id = %s", [poison])
    assert row == [(3, 6, "ProcessLost")]


def test_a_mine_in_a_batch_takes_nobody_with_it(stack: ProcessStack) -> None:
    """What dies in a batch runs alone from then on, so that only the culprit is suspected."""
    stack.worker("w1")
    stack.beat()
    warm = stack.submit("crashes.minefield", [{"n": 1, "mine": 0}] * 60)
    stack.wait_ended(warm)
    wait_for_statistics(stack, "crashes.minefield")
    stack.another_submitter()

    ids = stack.submit("crashes.minefield", [{"n": n, "mine": 333} for n in range(600)])
    stack.wait_ended(timeout=90)

    check(stack.db, [*warm, *ids], may_die={"crashes.minefield"})
    assert stack.db.counts(ids) == {"succeeded": 599, "dead": 1}
    assert stack.db.one("SELECT count(*) FROM esteira_job WHERE solo"), "no batch was hit; the test is blunt"
    assert stack.db.fetch("SELECT (params->>'n')::int FROM esteira_job WHERE suspicion > 0") == [(333,)]


def wait_for_statistics(stack: ProcessStack, name: str) -> None:
    """Wait until enough runs of a type are measured for batches to be made."""
    stack.until(
        lambda: (stack.db.one("SELECT sum(n) FROM esteira_stat WHERE type = %s", [name]) or 0) >= 20,
        f"runs of {name} are counted",
    )


@pytest.mark.kills
def test_oom_whole_worker(stack: ProcessStack) -> None:
    """A job in whose company the whole worker dies six times is dead; the others come and go, and are done."""
    worker, _ = stack.worker("w1"), stack.beat()
    (culprit,) = stack.submit("effects.deaf", [{"seconds": 600}])
    ids = stack.submit("effects.work", 60)

    for _ in range(6):
        wait_for_company(stack, culprit, ids)
        worker.kill()
        stack.again(worker)

    stack.wait_ended()
    check(stack.db, [*ids, culprit], may_die={"effects.deaf"})
    row = stack.db.fetch("SELECT state, attempt, suspicion FROM esteira_job WHERE id = %s", [culprit])
    assert row == [("dead", 6, 6)]


def wait_for_company(stack: ProcessStack, culprit: str, ids: list[str]) -> None:
    """Wait until a job runs and four others have come and gone beside it."""
    wanted = min(len(ids), stack.db.counts(ids).get("succeeded", 0) + 4)
    stack.until(
        lambda: (
            stack.db.counts([culprit]).get("running") and stack.db.counts(ids).get("succeeded", 0) >= wanted
        ),
        "the job runs again, and others beside it",
        timeout=60,
    )


@pytest.mark.kills
def test_sigterm_drain(make_stack: Callable[..., ProcessStack], measured: Measured) -> None:
    """T10: what is short is finished, what is long goes to others, and nobody is blamed."""
    stack = make_stack(LEASE_SECONDS="30", DRAIN_SECONDS="2")
    leaving, _ = stack.worker("w1"), stack.beat()
    (long,) = stack.submit("effects.work", [{"seconds": 600}])
    stack.until(lambda: stack.db.counts([long]).get("running"), "the long job runs")
    stack.worker("w2")
    short = stack.submit("effects.deaf", [{"seconds": 1}] * 8)
    stack.until(lambda: len(stack.db.held_by("w1@")) == 2, "a short job runs beside the long one")
    was = stack.db.attempts([UUID(long)])
    watch = Stopwatch()

    leaving.signal(signal.SIGTERM)
    stack.until(lambda: not leaving.alive(), "the worker has left")
    left = watch.seconds
    handed_over = stack.run_again(list(was), was)

    measured(left, 2.5, "exit")
    measured(handed_over, 1.0, "handed over")
    cancel(stack, long, force=False)
    stack.wait_ended()
    check(stack.db, [*short, long], may_cancel={"effects.work"}, crashed=False)
    attempts = dict(stack.db.fetch("SELECT attempt, count(*) FROM esteira_job GROUP BY attempt"))
    assert attempts == {1: len(short), 2: 1}


@pytest.mark.kills
def test_sigterm_with_nothing_to_do_leaves_at_once(stack: ProcessStack) -> None:
    worker = stack.worker("w1", DRAIN_SECONDS="60")
    watch = Stopwatch()

    worker.signal(signal.SIGTERM)
    stack.until(lambda: not worker.alive(), "the worker has left", timeout=20)

    assert watch.seconds < 15
    assert not [child for child in worker.family() if child.is_running()]


@pytest.mark.kills
def test_freeze_worker(stack: ProcessStack, measured: Measured) -> None:
    """Frozen past its leases in the middle of the work: others take over, and what it says later is refused."""
    frozen, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
    ids = mixed(stack)
    lost = stack.halfway(ids, "w1")
    was = stack.db.attempts(lost)

    frozen.signal_all(signal.SIGSTOP)

    measured(stack.run_again(lost, was), stack.lease_s + 1.5)
    stack.until(lambda: not stack.db.held_by("w1@"), "nothing is left to the frozen worker")
    frozen.signal_all(signal.SIGCONT)
    stack.wait_ended()
    check(stack.db, ids)


@pytest.mark.kills
def test_zombie(stack: ProcessStack) -> None:
    """A worker frozen past its leases comes back to find that its jobs are somebody else's."""
    frozen, _ = stack.worker("w1"), stack.beat()
    ids = [*stack.submit("effects.deaf", [{"seconds": 1.5}]), *stack.submit("plain.nap", [{"seconds": 1.5}])]
    stack.until(lambda: len(stack.db.held_by("w1@")) == 2, "both jobs run")

    frozen.signal_all(signal.SIGSTOP)
    other = stack.worker("w2")
    stack.until(lambda: stack.db.counts(ids).get("succeeded") == 2, "others have done both jobs")
    frozen.signal_all(signal.SIGCONT)
    stack.until(lambda: frozen.output().count("refused: attempt") >= 2, "both late results are refused")

    check(stack.db, ids)
    assert stack.db.fetch("SELECT DISTINCT attempt FROM esteira_job") == [(2,)]
    other.kill()
    more = stack.submit("effects.work", 10)
    stack.wait_ended()
    check(stack.db, [*ids, *more])


def test_a_worker_started_twice_under_one_name_harms_nothing(stack: ProcessStack) -> None:
    """The newcomer finds the first alive, takes another name, and both work."""
    first, _ = stack.worker("w1"), stack.beat()
    stack.submit("effects.work", [{"seconds": 600}])
    stack.until(lambda: stack.db.held_by("w1@test/"), "the first holds leases")

    second = stack.worker("w1", "twin")
    ids = stack.submit("effects.work", [{"seconds": 0.3}] * 30)

    stack.until(lambda: stack.db.held_by("w1@test-2/"), "the second works under another name")
    stack.wait_ended(ids)
    (long,) = stack.db.held_by("w1@test/")
    cancel(stack, str(long), force=False)
    stack.wait_ended()
    check(stack.db, [*ids, str(long)], may_cancel={"effects.work"}, crashed=False)
    assert first.alive() and second.alive()
    assert "another worker named w1@test" in second.output()


def test_a_recycled_pool_process_loses_nothing(stack: ProcessStack) -> None:
    """Celery replaces a pool process after so many tasks; that is an ordinary end."""
    stack.worker("w1", MAX_JOBS_PER_CHILD="5")
    stack.beat()

    ids = mixed(stack, 80)

    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_a_forced_cancel_ends_a_job_that_does_not_listen(stack: ProcessStack) -> None:
    stack.worker("w1")
    stack.beat()
    (deaf,) = stack.submit("effects.deaf", [{"seconds": 600}])
    ids = stack.submit("effects.work", 10)
    stack.until(lambda: stack.db.counts([deaf]).get("running"), "the job runs")

    cancel(stack, deaf, force=True)

    stack.until(lambda: stack.db.counts([deaf]).get("cancelled"), "the job is cancelled")
    stack.wait_ended()
    check(stack.db, [*ids, deaf], may_cancel={"effects.deaf"}, crashed=False)


def test_a_cancel_stops_a_job_at_its_next_check_point(stack: ProcessStack) -> None:
    stack.worker("w1")
    stack.beat()
    running, *waiting = stack.submit("effects.work", [{"seconds": 600}] * 4)
    stack.until(lambda: stack.db.counts([running]).get("running"), "the job runs")

    for job in [running, *waiting]:
        cancel(stack, job, force=False)

    stack.wait_ended(timeout=20)
    check(stack.db, [running, *waiting], may_cancel={"effects.work"}, crashed=False)


def cancel(stack: ProcessStack, job: str, *, force: bool) -> None:
    operate.cancel(stack.db, UUID(job), by="ana", force=force)


@pytest.mark.kills
def test_a_wrong_clock_changes_nothing(stack: ProcessStack) -> None:
    """Workers an hour ahead and behind: no stored time is ever compared with theirs."""
    fast = stack.worker("w1", **wrong_clock(3600))
    slow = stack.worker("w2", **wrong_clock(-3600))
    stack.beat(**wrong_clock(1800))

    ids = [*mixed(stack, 120), *stack.submit("effects.flaky", 6)]

    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    assert fast.alive() and slow.alive()
    assert not stack.db.one(
        """SELECT count(*) FROM esteira_job
           WHERE abs(extract(epoch FROM finished_at - clock_timestamp())) > 600"""
    )


def wrong_clock(seconds: int) -> dict[str, str]:
    path = [str(ROOT / "tests" / "support" / "skewed"), str(ROOT)]
    return {"SKEW_SECONDS": str(seconds), "PYTHONPATH": os.pathsep.join(path)}


@pytest.mark.kills
def test_nothing_is_left_of_a_stopped_worker(stack: ProcessStack) -> None:
    worker = stack.worker("w1")
    children = worker.children()
    assert children

    worker.kill()

    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
