"""Celery's own switches on real processes: what docs/celery-switches.md says of them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support import forks
from tests.support.invariants import check
from tests.support.process_stack import ProcessStack
from tests.support.processes import gone
from tests.support.waiting import until


def celery(stack: ProcessStack, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one of Celery's commands as a person would, until it ends or is in the background."""
    env = stack.environment(RUN_DIR=str(stack.logs), **settings)
    return forks.completed(["celery", "-A", "project", *arguments], env, timeout=120)


def test_what_is_refused_ends_with_a_sentence_and_an_error(stack: ProcessStack) -> None:
    """A worker with threads started, said that it was ready, and ran nothing."""
    done = celery(stack, "worker", "-P", "threads", "-c", "1")

    assert done.returncode == 2
    assert "--pool: only prefork" in done.stderr
    assert not stack.db.one("SELECT count(*) FROM esteira_worker")


@pytest.fixture
def in_background(stack: ProcessStack) -> Iterator[None]:
    """End what went into the background; its environment tells that it is ours."""
    yield
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.environ().get("RUN_DIR") == str(stack.logs):
                one.kill()


@pytest.mark.usefixtures("in_background")
def test_worker_and_beat_go_into_the_background_and_log_as_they_were_told(stack: ProcessStack) -> None:
    """The level and the file were ignored without a word, so a process in the background had no log at all."""
    logs = {name: stack.logs / f"{name}.txt" for name in ("worker", "beat")}
    pids = {name: stack.logs / f"{name}.pid" for name in ("worker", "beat")}

    for name, level in (("worker", "debug"), ("beat", "error")):
        flags = ["--detach", f"--logfile={logs[name]}", f"--pidfile={pids[name]}", "-l", level]
        done = celery(stack, name, *flags)
        assert done.returncode == 0, done.stderr
        told_pid(pids[name])
    ids = stack.submit("effects.work", 4)

    until(lambda: stack.db.counts(ids) == {"succeeded": 4}, "the jobs have run", timeout=60)
    check(stack.db, ids, crashed=False)
    until(lambda: " ready." in logs["worker"].read_text(), "the worker's log says that it is ready")
    assert " DEBUG " in logs["worker"].read_text()
    assert " INFO " not in logs["beat"].read_text()
    for file in pids.values():
        process = psutil.Process(told_pid(file))
        process.send_signal(signal.SIGTERM)
        gone(process, timeout=30)
        assert not file.exists()


def told_pid(file: Path) -> int:
    """Wait until a process in the background has written its id down."""
    return int(
        until(lambda: file.exists() and file.read_text().strip(), f"there is {file.name}", timeout=120)
    )


def test_a_jobs_own_log_is_kept_whatever_the_worker_says(stack: ProcessStack) -> None:
    stack.beat()
    worker = stack.worker("w1", wait=False, flags=["-l", "critical"])

    ids = stack.submit("plain.speak", 1)
    stack.wait_ended(timeout=120)

    assert "spoken" in stack.db.one("SELECT text FROM esteira_joblog WHERE job_id = %s", [ids[0]])
    assert "INFO" not in worker.output()


def test_a_worker_scales_between_its_limits_and_drops_no_job_with_a_purge(stack: ProcessStack) -> None:
    beat = stack.beat()
    ids = stack.submit("effects.work", [{"seconds": 0.3}] * 30)

    worker = stack.worker("w1", flags=["--purge", "--autoscale=4,1", "-Q", " default , default"])

    stack.until(lambda: len(worker.children()) > 2, "more processes work", timeout=90)
    stack.wait_ended(timeout=120)
    check(stack.db, ids, crashed=False)
    assert beat.alive()


def test_remote_control_harms_no_job(make_stack: Callable[..., ProcessStack]) -> None:
    """A rate limit made the worker hoard hints, which were sent again without bound; the type all but stopped."""
    stack = make_stack(CELERY_CONTROL="all")
    worker, _ = stack.worker("w1"), stack.beat()

    def steer(*words: str) -> str:
        # Who names the worker need not wait for others to answer.
        done = celery(stack, "control", "--timeout=30", "--destination=w1@test", *words)
        return done.stdout + done.stderr

    assert "is a job type" in steer("rate_limit", "effects.work", "1/m")
    assert "is a job type" in steer("time_limit", "effects.work", "0.1", "0.2")
    assert "there are 2" in steer("pool_shrink", "2")
    assert "all that this worker reads" in steer("cancel_consumer", "default")
    assert "No job type has the queue" in steer("add_consumer", "nobodys")
    assert "is a job type; submit it" in call(stack)

    ids = stack.submit("effects.work", [{"seconds": 0.3}] * 10)
    stack.wait_ended(timeout=120)
    check(stack.db, ids, crashed=False)
    assert len(worker.children()) == 2


def call(stack: ProcessStack) -> str:
    """Send a job type's name as one sends a Celery task; return the error."""
    done = celery(stack, "call", "effects.work", "--args", '["Ana"]')
    assert done.returncode != 0
    return done.stdout + done.stderr
