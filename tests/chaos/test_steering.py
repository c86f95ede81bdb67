"""Remote control of a real worker: by default it is only read; steered away from its work, it is not ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.processes import Process
from tests.support.remote import Remote
from tests.support.stack import Stack
from tests.support.waiting import until


def is_ready(worker: Process) -> bool:
    return (worker.run_dir / "worker.ready").exists()


def test_a_worker_is_read_and_not_steered(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    worker = stack.worker("w1")
    remote = Remote(stack)

    refused = remote.ask("cancel_consumer", queue="default")
    remote.tell("shutdown")
    pong = remote.ask("ping")

    assert "cancel_consumer is refused" in refused["error"] and "CELERY_CONTROL=all" in refused["error"]
    assert pong == {"ok": "pong"}
    assert "shutdown was refused" in worker.output()
    assert worker.alive()
    until(lambda: is_ready(worker), "it is ready")


@pytest.mark.parametrize(
    ("steer", "back", "said"),
    [
        (
            ("cancel_consumer", {"queue": "default"}),
            ("add_consumer", {"queue": "default"}),
            "it does not consume default",
        ),
        (("pool_shrink", {"n": 2}), ("pool_grow", {"n": 2}), "it has no pool process"),
    ],
    ids=["no queue", "no process"],
)
def test_a_worker_that_takes_no_jobs_is_alive_and_not_ready(
    make_stack: Callable[..., Stack],
    steer: tuple[str, dict[str, Any]],
    back: tuple[str, dict[str, Any]],
    said: str,
) -> None:
    stack = make_stack(CELERY_CONTROL="all")
    worker, remote = stack.worker("w1"), Remote(stack)
    until(lambda: is_ready(worker), "it is ready")

    remote.ask(steer[0], **steer[1])

    until(lambda: not is_ready(worker), "it is not ready any more")
    until(lambda: f"alive but not ready: {said}" in worker.output(), "it says so")
    assert worker.age_of("worker") < 10
    remote.ask(back[0], **back[1])
    until(lambda: is_ready(worker), "it is ready again")
    assert worker.output().count("alive but not ready") == 1
