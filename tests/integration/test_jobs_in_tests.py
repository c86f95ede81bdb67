"""`esteira.testing` runs jobs on a test's connection: inside the transaction of a test case, and with commits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction

from esteira import Cancelled, Context, GiveUp, Retry, job
from esteira.broker import publisher
from esteira.models import File, Queue
from esteira.testing.jobs import TestJobs
from project.local.embedded_server import free_port


@pytest.fixture(params=["in a test case's transaction", "with commits"])
def jobs(
    request: pytest.FixtureRequest, database: None, settings: Any, job_types: None
) -> Iterator[TestJobs]:
    """The jobs of a test without Redis, in the two ways in which pytest-django gives a database."""
    settings.ESTEIRA_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    with publisher.fast.silent():
        if request.param == "with commits":
            yield TestJobs()
            return
        case: Any = transaction.atomic()
        case._from_testcase = True  # as django.test.TestCase does
        with case:
            yield TestJobs()
            assert connection.in_atomic_block, "the transaction is still the test's"
            transaction.set_rollback(True)


def test_what_was_submitted_is_seen_with_its_options(jobs: TestJobs) -> None:
    greet = job(name="t.greet", unique="{name}")(lambda_of("greet"))

    greet.submit(name="Ana")
    greet.options(delay=60, expires_in=3600, priority="high").submit(name="Rui")

    first, second = jobs.submitted
    assert (first.type, first.params, first.queue, first.priority) == (
        "t.greet",
        {"name": "Ana"},
        "default",
        "normal",
    )
    assert (first.delay, first.expires_in, first.unique) == (timedelta(0), None, "Ana")
    assert (second.priority, second.unique) == ("high", "Rui")
    assert timedelta(seconds=59) < second.delay <= timedelta(seconds=60)
    assert second.expires_in is not None
    assert timedelta(minutes=59) < second.expires_in <= timedelta(hours=1)


def lambda_of(name: str) -> Any:
    def greet(ctx: Context, name: str) -> dict[str, str]:
        ctx.log.info("hello %s", name)
        ctx.progress(1, 2, "half")
        return {"text": f"Hello {name}"}

    greet.__name__ = name
    return greet


def test_a_job_runs_with_its_progress_and_result(jobs: TestJobs) -> None:
    submitted = job(name="t.greet")(lambda_of("greet")).submit(name="Ana")

    [ran] = jobs.run_due()

    assert (ran.pk, ran.state, ran.result) == (submitted.id, "succeeded", {"text": "Hello Ana"})
    assert (ran.progress_done, ran.progress_total, ran.progress_text) == (1, 2, "half")
    assert (ran.attempt, ran.tries) == (1, 1)


def test_jobs_that_a_job_submits_run_too_in_the_order_of_priority(jobs: TestJobs) -> None:
    said: list[int] = []

    @job(name="t.count")
    def count(ctx: Context, n: int) -> None:
        said.append(n)
        if n < 3:
            count.submit(n=n + 1)

    @job(name="t.first", priority="high")
    def first(ctx: Context) -> None:
        said.append(0)

    count.submit(n=1)
    first.submit()

    assert [one.type for one in jobs.run_due()] == ["t.first", "t.count", "t.count", "t.count"]
    assert said == [0, 1, 2, 3]


@pytest.mark.parametrize("atomic", [False, True])
def test_a_job_that_fails_keeps_its_error_and_is_due_after_its_pause(jobs: TestJobs, atomic: bool) -> None:
    @job(name="t.fails", retries=2, atomic=atomic)
    def fails(ctx: Context) -> None:
        Group.objects.create(name=f"try {ctx.try_number}")
        raise LookupError("not there")

    submitted = fails.submit()

    [ran] = jobs.run_due()
    assert (ran.state, ran.failures, (ran.error or {})["type"]) == ("queued", 1, "LookupError")
    assert jobs.run_due() == []

    assert {one.pk for one in jobs.run_all()} == {submitted.id}
    assert (jobs.job(submitted).state, jobs.job(submitted).failures) == ("failed", 3)
    assert Group.objects.filter(name__startswith="try").count() == (0 if atomic else 3)


def test_the_outcomes_that_a_job_chooses_are_those_of_a_worker(jobs: TestJobs) -> None:
    @job(name="t.chooses", retries=3)
    def chooses(ctx: Context, what: str) -> None:
        raise {"retry": Retry(after=3600), "give up": GiveUp("no"), "cancelled": Cancelled()}[what]

    ends = {what: chooses.submit(what=what) for what in ("retry", "give up", "cancelled")}
    jobs.run_due()

    assert {what: jobs.job(one).state for what, one in ends.items()} == {
        "retry": "queued",
        "give up": "failed",
        "cancelled": "cancelled",
    }
    jobs.advance(minutes=59)
    assert jobs.run_due() == []
    jobs.advance(minutes=1)
    assert [one.pk for one in jobs.run_due()] == [ends["retry"].id]


def test_a_completion_is_recorded_with_its_rows(jobs: TestJobs) -> None:
    @job(name="t.completes")
    def completes(ctx: Context) -> str:
        with ctx.file("note.txt") as file:
            file.write(b"hello")
        with ctx.completing() as done:
            Group.objects.create(name="made")
            done.result = "kept"
        raise LookupError("after the completion")

    submitted = completes.submit()
    jobs.run_due()

    assert (jobs.job(submitted).state, jobs.job(submitted).result) == ("succeeded", "kept")
    assert Group.objects.filter(name="made").exists()
    assert [file.name for file in File.objects.filter(job_id=submitted.id, attached_at__isnull=False)] == [
        "note.txt"
    ]


def test_an_expired_job_does_not_run(jobs: TestJobs) -> None:
    submitted = job(name="t.greet")(lambda_of("greet")).options(expires_in=60, delay=30).submit(name="Ana")

    jobs.advance(minutes=2)

    assert jobs.run_due() == []
    assert jobs.job(submitted).state == "expired"


def test_a_paused_queue_is_left_alone(jobs: TestJobs) -> None:
    submitted = job(name="t.greet")(lambda_of("greet")).submit(name="Ana")
    Queue.objects.create(name="default", paused_at=jobs.job(submitted).db_now)

    assert jobs.run_due() == []
    assert jobs.run_all() == []


def test_inline_runs_a_job_at_its_submit_and_no_longer_afterwards(jobs: TestJobs) -> None:
    greet = job(name="t.greet")(lambda_of("greet"))

    with jobs.inline():
        now, later = greet.submit(name="Ana"), greet.after(hours=1).submit(name="Rui")
    after = greet.submit(name="Eva")

    assert [jobs.job(one).state for one in (now, later, after)] == ["succeeded", "queued", "queued"]


def test_a_job_that_submits_itself_for_ever_is_an_error(
    jobs: TestJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esteira.testing.jobs.MOST_RUNS", 20)

    @job(name="t.endless")
    def endless(ctx: Context) -> None:
        endless.submit()

    endless.submit()

    with pytest.raises(AssertionError, match="20 jobs ran"):
        jobs.run_due()


def test_time_does_not_run_backwards(jobs: TestJobs) -> None:
    with pytest.raises(ValueError, match="positive"):
        jobs.advance(hours=-1)
