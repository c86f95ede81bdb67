"""Every way to stop a worker: it drains or hands back, counts nothing, and is gone within its limit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.invariants import check
from tests.support.process_stack import ProcessStack
from tests.support.processes import Process, gone
from tests.support.remote_control import Remote
from tests.support.waiting import Stopwatch, until

pytestmark = pytest.mark.kills

DRAIN_S = 2.0
#: To hand back, and for a machine that is busy.
LEAVE_S = 8.0
TERM, INT, QUIT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP


def to_parent(*signals: signal.Signals) -> Callable[[ProcessStack, Process], None]:
    def stop(stack: ProcessStack, worker: Process) -> None:
        for number, one in enumerate(signals):
            if number:
                until(lambda: "stopping (" in worker.output(), "the first signal is heard")
            worker.signal(one)

    return stop


def to_group(one: signal.Signals) -> Callable[[ProcessStack, Process], None]:
    return lambda stack, worker: os.killpg(worker.pid, one)


def as_systemd_does(stack: ProcessStack, worker: Process) -> None:
    os.killpg(worker.pid, TERM)
    os.killpg(worker.pid, HUP)


def by_remote_control(stack: ProcessStack, worker: Process) -> None:
    Remote(stack).tell("shutdown")


#: How it is asked for, and how long running jobs may go on.
STOPS: dict[str, tuple[Callable[[ProcessStack, Process], None], float]] = {
    "TERM": (to_parent(TERM), DRAIN_S),
    "TERM twice": (to_parent(TERM, TERM), DRAIN_S),
    "INT": (to_parent(INT), DRAIN_S),
    "INT twice": (to_parent(INT, INT), 0.0),
    "QUIT": (to_parent(QUIT), 0.0),
    "TERM, then QUIT": (to_parent(TERM, QUIT), 0.0),
    "TERM to the group": (to_group(TERM), DRAIN_S),
    "INT to the group": (to_group(INT), DRAIN_S),
    "QUIT to the group": (to_group(QUIT), 0.0),
    "TERM and HUP to the group": (as_systemd_does, DRAIN_S),
    "remote control": (by_remote_control, DRAIN_S),
}
#: `make test` runs these; `make kills` runs all.
USUAL = ("INT twice", "TERM, then QUIT", "TERM and HUP to the group", "remote control")


def start(stack: ProcessStack, *more: str, **settings: str) -> Process:
    arguments = ["celery", "-A", "project", "worker", "-l", "info", "--hostname", "w1@test", *more]
    process = Process("w1", arguments, stack.environment(**settings), stack.logs)
    return stack._start(process, "worker", wait=True)


def running(stack: ProcessStack, job: str) -> None:
    stack.until(lambda: stack.db.counts([job]).get("running"), "the job runs")


def look(stack: ProcessStack, job: str) -> Any:
    return stack.db.fetch("SELECT state, attempt, failures, suspicion FROM esteira_job WHERE id = %s", [job])[
        0
    ]


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[] if how in USUAL else [pytest.mark.long]) for how in STOPS]
)
def test_a_stop_hands_back_and_counts_nothing(make_stack: Callable[..., ProcessStack], how: str) -> None:
    stop, limit_s = STOPS[how]
    stack = make_stack(LEASE_SECONDS="60", DRAIN_SECONDS=f"{DRAIN_S:g}", CELERY_CONTROL="all")
    pid_file = stack.logs / "worker.pid"
    worker = start(stack, "--pidfile", str(pid_file))
    (job,) = stack.submit("effects.deaf", [{"seconds": 120}])
    running(stack, job)
    family = worker.children()
    watch = Stopwatch()

    stop(stack, worker)
    until(lambda: not worker.alive(), "the worker has left", timeout=60)

    assert watch.seconds < limit_s + LEAVE_S
    assert look(stack, job) == ("queued", 1, 0, 0)
    events = stack.db.fetch("SELECT kind, detail->>'reason' FROM esteira_jobevent")
    assert len(events) <= 1 and {kind for kind, _ in events} <= {"rescued"}
    assert stack.db.fetch("SELECT state FROM esteira_worker") == [("gone",)]
    assert not pid_file.exists()
    for child in family:
        gone(child)


def test_four_deploys_by_a_signal_to_the_group_do_not_end_a_job(
    make_stack: Callable[..., ProcessStack],
) -> None:
    """systemd's default: each process of the service gets SIGTERM."""
    stack = make_stack(LEASE_SECONDS="60", DRAIN_SECONDS="0.5")
    worker, _ = stack.worker("w1"), stack.beat()
    (job,) = stack.submit("effects.deaf", [{"seconds": 6}])

    for _ in range(4):
        running(stack, job)
        os.killpg(worker.pid, TERM)
        until(lambda: not worker.alive(), "the worker has left")
        stack.again(worker)
    stack.wait_ended(timeout=60)

    assert look(stack, job) == ("succeeded", 5, 0, 0)
    check(stack.db, [job], crashed=False)


@pytest.mark.parametrize("how", ["signal", "remote control"])
def test_a_worker_that_drains_is_alive_and_not_ready(
    make_stack: Callable[..., ProcessStack], how: str
) -> None:
    stack = make_stack(LEASE_SECONDS="60", DRAIN_SECONDS="60", CELERY_CONTROL="all")
    worker = stack.worker("w1")
    ready = worker.run_dir / "worker.ready"
    until(ready.exists, "it is ready")
    (job,) = stack.submit("effects.deaf", [{"seconds": 20}])
    running(stack, job)
    oldest = 0.0

    if how == "signal":
        worker.signal(TERM)
    else:
        Remote(stack).tell("shutdown")
    until(lambda: "stopping (" in worker.output(), "it stops")
    assert not ready.exists()
    while worker.alive() and look(stack, job)[0] == "running":
        oldest = max(oldest, worker.age_of("worker"))
        until(lambda: True, "a moment")
    until(lambda: not worker.alive(), "the worker has left", timeout=60)

    assert oldest < 10
    assert not ready.exists()
    assert look(stack, job) == ("succeeded", 1, 0, 0)


def test_hanging_up_starts_the_worker_anew_within_its_limit(make_stack: Callable[..., ProcessStack]) -> None:
    stack = make_stack(LEASE_SECONDS="60", DRAIN_SECONDS="1")
    worker, _ = stack.worker("w1"), stack.beat()
    (job,) = stack.submit("effects.deaf", [{"seconds": 8}])
    running(stack, job)

    worker.signal(HUP)

    until(lambda: worker.output().count(" ready.") == 2, "it is ready again", timeout=60)
    stack.wait_ended(timeout=60)
    assert worker.alive()
    assert look(stack, job) == ("succeeded", 2, 0, 0)
    assert stack.db.fetch("SELECT name, state FROM esteira_worker") == [("w1@test", "up")]


def test_what_remote_control_terminates_runs_again_and_counts_nothing(
    make_stack: Callable[..., ProcessStack],
) -> None:
    """Flower's button sends the same."""
    stack = make_stack(LEASE_SECONDS="60", CELERY_CONTROL="all")
    stack.worker("w1")
    stack.beat()
    remote = Remote(stack)
    (job,) = stack.submit("effects.deaf", [{"seconds": 15}])

    for attempt in (1, 2, 3, 4):
        stack.until(lambda: look(stack, job)[:2] == ("running", attempt), "it runs")  # noqa: B023
        delivery = stack.db.one("SELECT delivery FROM esteira_job WHERE id = %s", [job])
        remote.ask("terminate", signal="SIGTERM", task_id=delivery)
    stack.wait_ended(timeout=60)

    assert look(stack, job) == ("succeeded", 5, 0, 0)
    check(stack.db, [job], crashed=False)


@pytest.mark.parametrize("one", [TERM, HUP, QUIT], ids=lambda one: one.name)
def test_a_signal_to_a_pool_process_is_not_the_job_s_failure(
    make_stack: Callable[..., ProcessStack], one: signal.Signals
) -> None:
    stack = make_stack(LEASE_SECONDS="60")
    worker, _ = stack.worker("w1"), stack.beat()
    (job,) = stack.submit("effects.deaf", [{"seconds": 3}])
    running(stack, job)

    for child in worker.children():
        child.send_signal(one)
    stack.wait_ended(timeout=60)

    assert look(stack, job)[::2] == ("succeeded", 0) and look(stack, job)[3] == 0
    check(stack.db, [job], crashed=False)
