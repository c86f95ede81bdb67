"""Cancel, retry, pause, resume: what an operator's action does, and how it says that it did nothing."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection

from esteira.errors import NotFound, StateConflict, UniqueConflict, UnknownQueue
from esteira.models import Job, JobEvent, Queue
from esteira.operate import cancel, pause, resume, retry

pytestmark = pytest.mark.django_db

RUNNING = "state = 'running', attempt = 1, worker = 'w/1', claimed_at = now(), lease_until = now() + '1 h'"
ENDED = "finished_at = clock_timestamp()"


def job_in(state: str, unique_key: str | None = None) -> Job:
    """Store a job and put it where its legal arrows lead."""
    job = Job.objects.create(type="demo.nothing", unique_key=unique_key)
    steps = {
        "queued": [],
        "running": [RUNNING],
        "cancelled": [f"state = 'cancelled', {ENDED}"],
        "expired": [f"state = 'expired', {ENDED}"],
        "succeeded": [RUNNING, f"state = 'succeeded', {ENDED}, worker = NULL, lease_until = NULL"],
        "failed": [RUNNING, f"state = 'failed', {ENDED}, error = '{{}}', worker = NULL, lease_until = NULL"],
        "dead": [RUNNING, f"state = 'dead', {ENDED}, error = '{{}}', worker = NULL, lease_until = NULL"],
    }
    with connection.cursor() as cursor:
        for step in steps[state]:
            cursor.execute(f"UPDATE esteira_job SET {step} WHERE id = %s", [job.pk])
    job.refresh_from_db()
    return job


def test_a_waiting_job_is_cancelled_at_once() -> None:
    job = job_in("queued")

    assert cancel(job.pk, by="ana") == "cancelled"

    job.refresh_from_db()
    assert job.state == "cancelled"
    assert JobEvent.objects.get(job=job).by == "ana"


def test_a_running_job_is_asked_to_stop() -> None:
    job = job_in("running")

    assert cancel(job.pk, by="ana") == "running"

    job.refresh_from_db()
    assert (job.state, job.cancel_by, job.cancel_force) == ("running", "ana", False)
    assert cancel(job.pk, by="bia", force=True) == "running"
    job.refresh_from_db()
    assert job.cancel_force is True


def test_cancelling_twice_is_the_same_as_once() -> None:
    job = job_in("queued")

    assert [cancel(job.pk, by="ana"), cancel(job.pk, by="ana")] == ["cancelled", "cancelled"]
    assert JobEvent.objects.filter(job=job).count() == 1


@pytest.mark.parametrize("state", ["succeeded", "failed", "dead", "expired"])
def test_an_ended_job_cannot_be_cancelled(state: str) -> None:
    job = job_in(state)

    with pytest.raises(StateConflict, match=state):
        cancel(job.pk, by="ana")

    job.refresh_from_db()
    assert (job.state, job.cancel_requested_at) == (state, None)


@pytest.mark.parametrize("state", ["failed", "dead", "cancelled", "expired"])
def test_an_ended_job_that_did_not_succeed_can_be_retried(state: str) -> None:
    job = job_in(state)

    retry(job.pk, by="ana")

    job.refresh_from_db()
    assert (job.state, job.failures, job.error, job.finished_at) == ("queued", 0, None, None)
    event = JobEvent.objects.get(job=job, kind="retried")
    assert (event.by, event.detail) == ("ana", {"was": state})


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_any_other_job_cannot_be_retried(state: str) -> None:
    job = job_in(state)

    with pytest.raises(StateConflict, match=state):
        retry(job.pk, by="ana")

    job.refresh_from_db()
    assert job.state == state


def test_a_retry_gives_way_to_the_job_that_holds_its_unique_key() -> None:
    job = job_in("failed", unique_key="demo.nothing:july")
    holder = job_in("queued", unique_key="demo.nothing:july")

    with pytest.raises(UniqueConflict, match="'july'") as refused:
        retry(job.pk, by="ana")

    assert refused.value.job_id == holder.pk
    job.refresh_from_db()
    assert job.state == "failed"


def test_a_job_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFound):
        cancel(uuid4(), by="ana")
    with pytest.raises(NotFound):
        retry(uuid4(), by="ana")


def test_a_queue_is_paused_and_resumed() -> None:
    pause("default", by="ana", reason="maintenance")

    queue = Queue.objects.get(name="default")
    assert queue.paused_at is not None
    assert (queue.paused_by, queue.reason) == ("ana", "maintenance")

    pause("default", by="bia")
    again = Queue.objects.get(name="default")
    assert (again.paused_at, again.paused_by) == (queue.paused_at, "bia")

    resume("default", by="ana")
    assert Queue.objects.get(name="default").paused_at is None
    resume("default", by="ana")


def test_a_queue_nobody_knows_cannot_be_paused() -> None:
    with pytest.raises(UnknownQueue, match="defualt"):
        pause("defualt", by="ana")

    assert not Queue.objects.exists()
