"""Pool processes are signalled, forked and broken by their own jobs; what they ran is done once, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from django.conf import settings

from esteira.broker.hint import Hint, list_key
from esteira.record import operate
from tests.support.misbehaving_jobs import HOW_CHILDREN_LEAVE
from tests.support.process_stack import ProcessStack
from tests.support.processes import Process
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="process groups are watched on Linux")


@pytest.fixture
def misbehaving(make_stack: Callable[..., ProcessStack]) -> ProcessStack:
    return make_stack(JOB_PACKAGES="tests.support.misbehaving_jobs", CONCURRENCY="1")


def found(stack: ProcessStack, job: str) -> tuple[Any, ...]:
    return stack.db.fetch(
        "SELECT state, attempt, failures, suspicion, result, error->>'type' FROM esteira_job WHERE id = %s",
        [job],
    )[0]


def submit(stack: ProcessStack, name: str, **params: Any) -> str:
    return stack.submit(f"misbehaving_jobs.{name}", [params])[0]


def running(stack: ProcessStack, job: str) -> None:
    until(lambda: found(stack, job)[0] == "running", f"{job} runs")


def pool_process(worker: Process) -> psutil.Process:
    return until(lambda: psutil.Process(worker.pid).children(), "there is a pool process")[0]


def test_a_signal_to_a_pool_process_does_not_hurt_its_job(misbehaving: ProcessStack) -> None:
    worker, _ = misbehaving.worker("w1"), misbehaving.beat()

    for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1):
        job = submit(misbehaving, "deaf", seconds=2)
        running(misbehaving, job)
        ran_in = pool_process(worker)
        ran_in.send_signal(how)
        misbehaving.wait_ended([job])

        assert found(misbehaving, job) == ("succeeded", 1, 0, 0, ran_in.pid, None), how
        later = submit(misbehaving, "pid")
        misbehaving.wait_ended([later])
        assert found(misbehaving, later)[:4] == ("succeeded", 1, 0, 0), how


@pytest.mark.kills
def test_sigterm_to_all_processes_of_a_worker_counts_nothing(misbehaving: ProcessStack) -> None:
    worker, _ = misbehaving.worker("w1", DRAIN_SECONDS="1"), misbehaving.beat()
    job = submit(misbehaving, "deaf", seconds=4)

    for attempt in (1, 2):
        running(misbehaving, job)
        assert found(misbehaving, job)[1] == attempt
        worker.signal_all(signal.SIGTERM)
        until(lambda: not worker.alive(), "the worker has drained", timeout=20)
        assert found(misbehaving, job)[:4] == ("queued", attempt, 0, 0)
        misbehaving.again(worker)
    misbehaving.wait_ended([job])

    assert found(misbehaving, job)[:4] == ("succeeded", 3, 0, 0)


def test_an_idle_pool_process_that_celery_ends_is_replaced(misbehaving: ProcessStack) -> None:
    worker, _ = misbehaving.worker("w1"), misbehaving.beat()
    first = submit(misbehaving, "pid")
    misbehaving.wait_ended([first])

    pool_process(worker).terminate()
    until(lambda: found(misbehaving, first)[4] not in [one.pid for one in worker.children()], "it has ended")
    second = submit(misbehaving, "pid")
    misbehaving.wait_ended([second])

    assert found(misbehaving, second)[:4] == ("succeeded", 1, 0, 0)
    assert found(misbehaving, second)[4] != found(misbehaving, first)[4]


def test_a_forked_child_that_comes_back_ends_and_records_nothing(misbehaving: ProcessStack) -> None:
    worker, _ = misbehaving.worker("w1"), misbehaving.beat()
    jobs = misbehaving.submit("misbehaving_jobs.forks", [{"how": how} for how in HOW_CHILDREN_LEAVE] * 20)
    jobs += misbehaving.submit("misbehaving_jobs.pid", 40)

    misbehaving.wait_ended(jobs)

    assert misbehaving.db.counts(jobs) == {"succeeded": 140}
    assert {found(misbehaving, one)[1] for one in jobs} == {1}
    results = misbehaving.db.fetch(
        "SELECT DISTINCT result FROM esteira_job WHERE type = 'misbehaving_jobs.forks'"
    )
    assert {result for (result,) in results} == set(HOW_CHILDREN_LEAVE)
    runs = misbehaving.db.fetch("SELECT count(*) FROM effect GROUP BY job_id")
    assert runs == [(1,)] * 100
    assert len(worker.children()) == 1


def test_a_job_may_have_processes_of_its_own_in_the_way_that_the_guide_names(
    misbehaving: ProcessStack,
) -> None:
    misbehaving.worker("w1"), misbehaving.beat()
    queries = submit(misbehaving, "multiplies")
    works = [submit(misbehaving, "shares_work", how=how) for how in ("billiard", "threads")]
    refused = [
        submit(misbehaving, "shares_work", how=how) for how in ("multiprocessing", "ProcessPoolExecutor")
    ]

    misbehaving.wait_ended([queries, *works, *refused])

    assert found(misbehaving, queries) == ("succeeded", 1, 0, 0, [0, 2, 4, 6], None)
    for job in works:
        assert found(misbehaving, job) == ("succeeded", 1, 0, 0, [1, 2, 3], None)
    for job in refused:
        assert found(misbehaving, job) == ("failed", 1, 1, 0, None, "AssertionError")


def started_program(file: Path) -> psutil.Process:
    return psutil.Process(int(until(lambda: file.exists() and file.read_text(), "the program runs")))


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill_worker(stack: ProcessStack, worker: Process, job: str) -> None:
    worker.signal(signal.SIGKILL)


def kill_pool_process(stack: ProcessStack, worker: Process, job: str) -> None:
    pool_process(worker).kill()


def cancel_by_force(stack: ProcessStack, worker: Process, job: str) -> None:
    operate.cancel(stack.db, UUID(job), by="ana", force=True)


def drain(stack: ProcessStack, worker: Process, job: str) -> None:
    worker.signal(signal.SIGTERM)


def test_what_a_job_has_started_ends_with_a_process_that_is_ended_by_force(
    misbehaving: ProcessStack, tmp_path: Path
) -> None:
    """Nobody rescues meanwhile: there is no beat."""
    worker = misbehaving.worker("w1", DRAIN_SECONDS="1")

    for end in (kill_pool_process, cancel_by_force, drain, kill_worker):
        if not worker.alive():
            misbehaving.again(worker)
        file = tmp_path / end.__name__
        job = submit(misbehaving, "starts_program", file=str(file))
        program = started_program(file)

        end(misbehaving, worker, job)

        until(partial(has_ended, program), f"it has ended after {end.__name__}", timeout=20)
        if end in (drain, kill_worker):
            until(lambda: not worker.alive(), "the worker has left", timeout=20)


def test_what_a_job_leaves_running_when_it_returns_is_left_alone(
    misbehaving: ProcessStack, tmp_path: Path
) -> None:
    worker, _ = misbehaving.worker("w1"), misbehaving.beat()
    file = tmp_path / "pid"
    job = submit(misbehaving, "starts_program", file=str(file), stay=False)
    misbehaving.wait_ended([job])
    program = psutil.Process(int(file.read_text()))
    ran_in = pool_process(worker)

    ran_in.terminate()
    until(partial(has_ended, ran_in), "its process has ended")

    assert program.is_running() and program.status() == psutil.STATUS_SLEEPING
    program.kill()


def test_a_process_whose_descriptors_a_job_closed_is_replaced(misbehaving: ProcessStack) -> None:
    worker, _ = misbehaving.worker("w1"), misbehaving.beat()
    was = pool_process(worker).pid
    job = submit(misbehaving, "closes_descriptors")
    later = misbehaving.submit("misbehaving_jobs.pid", 5)

    misbehaving.wait_ended([job, *later])

    assert found(misbehaving, job)[:4] == ("succeeded", 1, 0, 0)
    assert {found(misbehaving, one)[0] for one in later} == {"succeeded"}
    assert was not in {found(misbehaving, one)[4] for one in later}


def test_a_process_that_is_killed_in_a_hint_that_it_took_itself_has_its_jobs_rescued_at_once(
    make_stack: Callable[..., ProcessStack],
) -> None:
    """Nobody else rescues meanwhile: leases are long."""
    stack = make_stack(
        JOB_PACKAGES="tests.support.misbehaving_jobs", CONCURRENCY="1", LEASE_SECONDS="600", WINDOW="0"
    )
    name = "misbehaving_jobs.deaf"
    quick = stack.submit(name, [{"seconds": 0}] * 2)
    slow, waits = stack.submit(name, [{"seconds": 600}, {"seconds": 0}])
    stack.redis.flushall()
    for ids in (quick, (slow, waits)):
        hint = Hint(type=name, queue="default", list=6, ids=[UUID(one) for one in ids], hard_limit_s=600)
        stack.redis.lpush(list_key(settings.REDIS_PREFIX, "default", 6), hint.message())

    worker = stack.worker("w1")
    running(stack, slow)
    (deliveries,) = stack.db.fetch("SELECT count(DISTINCT delivery) FROM esteira_job")
    kill_pool_process(stack, worker, slow)

    assert deliveries == (1,)
    until(lambda: found(stack, slow)[0] == "queued", "the running job is rescued", timeout=30)
    assert [found(stack, one)[0] for one in quick] == ["succeeded"] * 2
