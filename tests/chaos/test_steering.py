"""Remote control of a real worker: by default it is only read; steered away from its work, it is not ready."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.support.processes import ROOT, Process
from tests.support.stack import Stack
from tests.support.waiting import until


def celery(stack: Stack, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "project", *command],
        cwd=ROOT,
        env=stack.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def is_ready(worker: Process) -> bool:
    return (worker.run_dir / "worker.ready").exists()


def test_a_worker_is_read_and_not_steered(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    worker = stack.worker("w1")
    stack.beat()

    refused = celery(stack, "control", "cancel_consumer", "default")
    celery(stack, "control", "shutdown")
    pong = celery(stack, "inspect", "ping")

    assert "cancel_consumer is refused" in refused and "CELERY_CONTROL=all" in refused
    assert "pong" in pong
    assert "shutdown was refused" in worker.output()
    stack.submit("plain.nothing", 5)
    stack.wait_ended()
    assert worker.alive()
    until(lambda: is_ready(worker), "it is ready")


def test_a_worker_that_takes_no_jobs_is_alive_and_not_ready(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(CELERY_CONTROL="all")
    worker = stack.worker("w1")
    until(lambda: is_ready(worker), "it is ready")

    for steer, back, said in (
        (("cancel_consumer", "default"), ("add_consumer", "default"), "it does not consume default"),
        (("pool_shrink", "2"), ("pool_grow", "2"), "it has no pool process"),
    ):
        celery(stack, "control", *steer)
        until(lambda: not is_ready(worker), f"{steer[0]} makes it unready")
        until(lambda: said in worker.output(), f"{steer[0]} is said")  # noqa: B023
        assert worker.age_of("worker") < 10
        celery(stack, "control", *back)
        until(lambda: is_ready(worker), f"{back[0]} makes it ready")

    assert worker.output().count("alive but not ready") == 2
