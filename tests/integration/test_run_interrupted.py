"""What may interrupt a running job: limits, cancellation, an operator's force, its own batch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from esteira import Context, TimeLimitExceeded, job, operate
from esteira.db import PrivateConnection
from esteira.models import Job
from esteira.record import lease
from esteira.record.operate import retry
from esteira.record.rescue import process_ended
from esteira.runner import heartbeat
from esteira.runner.runner import Runner
from tests.support.run_hints import events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


def test_the_time_limit_raises_inside_the_function(runner: Runner) -> None:
    tidied: list[str] = []

    @job(name="test.slow", timeout=0.3, retries=0)
    def slow(ctx: Context) -> None:
        try:
            time.sleep(30)
        except TimeLimitExceeded:
            tidied.append("up")
            raise

    (row,) = run(runner, slow.submit().id)

    assert (row.state, tidied) == ("failed", ["up"])
    assert row.error["kind"] == "timeout"  # type: ignore[index]


def test_a_time_limit_that_comes_while_core_code_runs_is_raised_afterwards(runner: Runner) -> None:
    reached: list[str] = []

    @job(name="test.shielded", timeout=0.2, retries=0)
    def shielded(ctx: Context) -> None:
        with runner.interrupt.shield():
            until(lambda: runner.interrupt._wanted is not None, "the limit has passed")
            reached.append("end of the shield")
        reached.append("never")

    (row,) = run(runner, shielded.submit().id)

    assert (row.state, reached) == ("failed", ["end of the shield"])


def test_a_limit_never_hits_the_next_job(runner: Runner) -> None:
    @job(name="test.brief", timeout=60)
    def brief(ctx: Context) -> None: ...

    runner.interrupt.send(object(), TimeLimitExceeded("meant for a job that is over"))
    rows = run(runner, *brief.submit_many([{}] * 5))

    assert {row.state for row in rows} == {"succeeded"}


def test_a_cancelled_job_stops_at_its_next_check(runner: Runner, settings: Any) -> None:
    settings.ESTEIRA_LEASE_SECONDS = 1

    @job(name="test.long", lease=1)
    def long(ctx: Context) -> None:
        for _ in ctx.each(range(10_000), "counting"):
            time.sleep(0.01)

    answer = long.submit()

    def ask() -> None:
        operate.cancel(answer.id, by="ana")
        connection.close()

    asker = threading.Timer(0.3, ask)
    asker.start()
    (row,) = run(runner, answer.id)
    asker.join()

    assert (row.state, row.cancel_by) == ("cancelled", "ana")
    assert events(row) == ["cancel", "cancelled"]
    assert row.progress_total == 10_000


def test_a_job_cancelled_between_publish_and_claim_never_starts(runner: Runner) -> None:
    @job(name="test.never")
    def never(ctx: Context) -> None:
        raise AssertionError("it started")

    answer = never.submit()
    operate.cancel(answer.id, by="ana")
    (row,) = run(runner, answer.id)

    assert (row.state, row.attempt) == ("cancelled", 0)


def test_a_long_job_keeps_its_lease_tells_its_start_and_its_progress(runner: Runner) -> None:
    seen: list[Job] = []

    @job(name="test.keeps", lease=1)
    def keeps(ctx: Context) -> None:
        ctx.progress(1, 4, "a \0 quarter")
        first = Job.objects.get(pk=ctx.job_id).lease_until
        until(lambda: Job.objects.get(pk=ctx.job_id).lease_until > first, "the lease is extended")  # type: ignore[operator]
        until(lambda: Job.objects.get(pk=ctx.job_id).progress_done, "the progress is stored")
        seen.append(Job.objects.get(pk=ctx.job_id))

    run(runner, keeps.submit().id)

    assert seen[0].started_at is not None
    assert (seen[0].progress_done, seen[0].progress_total, seen[0].progress_text) == (
        1,
        4,
        "a \ufffd quarter",
    )


def test_what_has_not_started_in_a_quarter_of_a_second_goes_back(runner: Runner) -> None:
    @job(name="test.mixed")
    def mixed(ctx: Context, seconds: float) -> None:
        time.sleep(seconds)

    ids = mixed.submit_many([{"seconds": heartbeat.WAITING_MAX_S * 4}, {"seconds": 0}, {"seconds": 0}])
    rows = run(runner, *ids)

    assert [row.state for row in rows] == ["succeeded", "queued", "queued"]
    assert [(row.attempt, row.failures, row.suspicion, row.solo) for row in rows[1:]] == [
        (1, 0, 0, False)
    ] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("force", [True, False])
def test_what_ignores_its_limit_or_an_operators_force_ends_with_its_process(
    force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hard limit is a failure of the running job; its neighbours of the same hint go back to run alone."""
    monkeypatch.setattr(heartbeat, "HARD_AFTER_S", 0.3)

    @job(name="test.deaf", timeout=60 if force else 0.2, lease=1, retries=0)
    def deaf(ctx: Context) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except TimeLimitExceeded:
                pass

    ids = deaf.submit_many([{}] * 3)
    connection.close()
    if (child := os.fork()) == 0:
        runner = Runner("w3/boot-3-3")
        runner.start()
        monkeypatch.setattr(heartbeat, "WAITING_MAX_S", 60)
        runner.run_hint([str(one) for one in ids], "d3")
        os._exit(1)
    if force:
        until(lambda: Job.objects.get(pk=ids[0]).state == "running", "the first job runs")
        operate.cancel(ids[0], by="ana", force=True)

    _, status = os.waitpid(child, 0)

    assert os.WTERMSIG(status) == signal.SIGKILL
    rows = [Job.objects.get(pk=one) for one in ids]
    assert rows[0].state == ("cancelled" if force else "failed")
    if not force:
        assert rows[0].error["kind"] == "timeout"  # type: ignore[index]
    assert [(row.state, row.solo, row.suspicion, row.failures) for row in rows[1:]] == [
        ("queued", True, 0, 0)
    ] * 2


def test_the_time_limit_also_ends_what_a_function_does_after_its_completion(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "STATS_S", 0.1)
    tidied: list[str] = []

    @job(name="test.after", timeout=2, retries=0)
    def after(ctx: Context) -> None:
        with ctx.completing() as done:
            done.result = "paid"
        try:
            time.sleep(20)
        except TimeLimitExceeded:
            tidied.append("up")
            raise

    (row,) = run(runner, after.submit().id)

    assert (row.state, row.result, tidied) == ("succeeded", "paid", ["up"])


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("lost", [True, False])
def test_what_ignores_its_limit_ends_with_its_process_although_its_attempt_is_over(
    lost: bool, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has completed before or has lost its lease: nobody else would end it.

    The limit passes when the heartbeat has long written all that there was to write.
    """
    monkeypatch.setattr(heartbeat, "HARD_AFTER_S", 0.3)
    monkeypatch.setattr(heartbeat, "STATS_S", 0.1)

    @job(name="test.deaf", timeout=2, retries=0)
    def deaf(ctx: Context) -> None:
        if not lost:
            with ctx.completing():
                pass
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                time.sleep(1)
            except TimeLimitExceeded:
                pass

    answer = deaf.submit()
    core.close()
    connection.close()
    if (child := os.fork()) == 0:
        runner = Runner("w3/boot-3-3")
        runner.start()
        runner.run_hint([str(answer.id)], "d3")
        os._exit(1)
    if lost:
        until(lambda: process_ended(core, "d3"), "it runs, and is taken from its process")

    _, status = os.waitpid(child, 0)

    assert (os.WIFSIGNALED(status), os.WTERMSIG(status)) == (True, signal.SIGKILL)
    assert Job.objects.get(pk=answer.id).state == ("queued" if lost else "succeeded")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("by", ["the process, whose answer is lost", "a keeper", "the process, then retried"])
def test_a_forced_cancel_ends_the_process_whoever_wrote_it_and_whatever_it_heard(
    by: str, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="test.deaf", lease=1)
    def deaf(ctx: Context) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            time.sleep(0.1)

    kill = lease.kill

    def kill_and_lose(db: PrivateConnection, job_id: UUID, attempt: int) -> bool:
        assert kill(db, job_id, attempt)
        if by.endswith("retried"):
            retry(db, job_id, by="bob")
        db.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        raise AssertionError("the connection was not cut")

    answer = deaf.submit()
    core.close()
    connection.close()
    if (child := os.fork()) == 0:
        monkeypatch.setattr(lease, "kill", (lambda *_: False) if by == "a keeper" else kill_and_lose)
        runner = Runner("w3/boot-3-3")
        runner.start()
        runner.run_hint([str(answer.id)], "d3")
        os._exit(1)
    until(lambda: Job.objects.get(pk=answer.id).state == "running", "the job runs")
    operate.cancel(answer.id, by="ana", force=True)
    if by == "a keeper":
        assert process_ended(core, "d3") == {answer.id: "cancelled"}

    _, status = os.waitpid(child, 0)

    assert (os.WIFSIGNALED(status), os.WTERMSIG(status)) == (True, signal.SIGKILL)
    assert Job.objects.get(pk=answer.id).state == ("queued" if by.endswith("retried") else "cancelled")
