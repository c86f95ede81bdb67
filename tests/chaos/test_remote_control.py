"""Remote control of a real worker: by default it is only read; steered away from its work, it is not ready."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.process_stack import ProcessStack
from tests.support.processes import Process
from tests.support.remote_control import Remote
from tests.support.waiting import until


def is_ready(worker: Process) -> bool:
    return (worker.run_dir / "worker.ready").exists()


def test_a_worker_is_read_and_not_steered(make_stack: Callable[..., ProcessStack]) -> None:
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


def test_a_worker_that_reads_not_all_its_queues_is_alive_and_not_ready(
    make_stack: Callable[..., ProcessStack],
) -> None:
    stack = make_stack(CELERY_CONTROL="all", JOB_QUEUES="extra")
    worker, remote = stack.worker("w1"), Remote(stack)
    until(lambda: is_ready(worker), "it is ready")

    remote.ask("cancel_consumer", queue="extra")

    until(lambda: not is_ready(worker), "it is not ready any more")
    until(lambda: "alive but not ready: it does not consume extra" in worker.output(), "it says so")
    assert worker.age_of("worker") < 10
    remote.ask("add_consumer", queue="extra")
    until(lambda: is_ready(worker), "it is ready again")
    assert worker.output().count("alive but not ready") == 1


def test_what_would_leave_a_worker_without_work_is_refused(make_stack: Callable[..., ProcessStack]) -> None:
    stack = make_stack(CELERY_CONTROL="all")
    worker, remote = stack.worker("w1"), Remote(stack)

    answers = [remote.ask("cancel_consumer", queue="default"), remote.ask("pool_shrink", n=2)]

    assert all("error" in answer for answer in answers), answers
    until(lambda: is_ready(worker), "it is ready")
