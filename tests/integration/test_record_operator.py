"""T11, T12 cancel, T13 retry: what people do to a job in each of its states, and that it is written down."""

from __future__ import annotations

from uuid import uuid4

import pytest
from psycopg.errors import UniqueViolation

from esteira.db import DjangoConnection, PrivateConnection
from esteira.record.claim import claim
from esteira.record.finish import finish
from esteira.record.operate import cancel, retry
from tests.support.jobs import ended, kinds, look, outcome, running, stored, version

ENDED = ["succeeded", "failed", "dead", "cancelled", "expired"]
RETRYABLE = ["failed", "dead", "cancelled", "expired"]


def test_a_waiting_job_is_cancelled_at_once(core: PrivateConnection) -> None:
    (job,) = stored(core, publish=True)

    assert cancel(core, job, by="ana", force=False) == "cancelled"

    row = look(core, job)
    assert (row.state, row.published_at, row.cancel_by) == ("cancelled", None, "ana")
    assert row.finished_at
    assert core.fetch("SELECT kind, by FROM esteira_jobevent") == [("cancelled", "ana")]
    assert claim(core, [job], worker="w", delivery="d") == []


def test_a_running_job_is_asked_to_stop_and_runs_on_until_it_hears(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert cancel(core, job.id, by="ana", force=False) == "running"

    row = look(core, job.id)
    assert (row.state, row.cancel_by, row.cancel_force, row.finished_at) == ("running", "ana", False, None)
    assert row.cancel_requested_at
    assert kinds(core, job.id) == ["cancel"]


def test_force_comes_later_and_does_not_go_away(core: PrivateConnection) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=False)
    first = look(core, job.id).cancel_requested_at

    cancel(core, job.id, by="bob", force=True)
    cancel(core, job.id, by="ana", force=False)

    row = look(core, job.id)
    assert row.cancel_force
    assert row.cancel_requested_at == first


@pytest.mark.parametrize("state", ENDED)
def test_cancelling_an_ended_job_says_its_state_and_changes_nothing(
    core: PrivateConnection, state: str
) -> None:
    (job,) = stored(core)
    ended(core, job, state)
    before = version(core, job)

    assert cancel(core, job, by="ana", force=True) == state
    assert version(core, job) == before
    assert kinds(core, job) == []


def test_there_is_nothing_to_cancel_or_retry_where_there_is_no_job(core: PrivateConnection) -> None:
    assert cancel(core, uuid4(), by="ana", force=False) is None
    assert retry(core, uuid4(), by="ana") is None


@pytest.mark.parametrize("state", RETRYABLE)
def test_a_retry_gives_an_ended_job_a_clean_slate(core: PrivateConnection, state: str) -> None:
    (job,) = stored(core, expires_in_s=60)
    core.fetch(
        """UPDATE esteira_job SET state = 'running', attempt = 7, failures = 4, suspicion = 6, solo = true,
             worker = 'w', claimed_at = clock_timestamp(), started_at = clock_timestamp(),
             lease_until = clock_timestamp(), cancel_requested_at = clock_timestamp(), cancel_by = 'bob',
             cancel_force = true, progress_done = 3, progress_total = 4, progress_text = 'Almost'"""
    )
    core.fetch("UPDATE esteira_job SET state = 'queued', worker = NULL, lease_until = NULL")
    ended(core, job, state)
    attempt = look(core, job).attempt

    assert retry(core, job, by="ana") == state

    row = look(core, job)
    assert (row.state, row.attempt) == ("queued", attempt)
    assert (row.failures, row.suspicion, row.solo, row.error, row.expires_at) == (0, 0, False, None, None)
    assert (row.cancel_requested_at, row.cancel_by, row.cancel_force) == (None, "", False)
    assert (row.started_at, row.finished_at, row.claimed_at, row.published_at) == (None, None, None, None)
    assert (row.progress_done, row.progress_total, row.progress_text) == (None, None, "")
    assert -5 < row.run_in <= 0
    assert core.fetch("SELECT kind, by, detail->>'was' FROM esteira_jobevent") == [("retried", "ana", state)]


def test_a_retried_job_runs_and_its_attempt_counts_on(core: PrivateConnection) -> None:
    (job,) = running(core, max_failures=1)
    finish(core, [outcome(job, "failed")])
    retry(core, job.id, by="ana")

    (again,) = claim(core, [job.id], worker="w", delivery="d")

    assert (again.attempt, again.failures) == (2, 0)
    assert finish(core, [outcome(again)]) == {job.id: "succeeded"}


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_a_job_that_is_not_over_or_succeeded_is_not_retried(core: PrivateConnection, state: str) -> None:
    job = running(core)[0].id if state == "running" else stored(core)[0]
    if state == "succeeded":
        ended(core, job, state)
    before = version(core, job)

    assert retry(core, job, by="ana") == state
    assert version(core, job) == before
    assert kinds(core, job) == []


def test_a_retry_meets_the_job_that_holds_the_unique_key_by_now(core: PrivateConnection) -> None:
    (old,) = stored(core, unique_key="k")
    ended(core, old, "failed")
    stored(core, unique_key="k")

    with pytest.raises(UniqueViolation):
        retry(core, old, by="ana")

    assert look(core, old).state == "failed"
    assert kinds(core, old) == []


def test_a_retry_opens_the_way_out_for_itself_only(core: PrivateConnection) -> None:
    first, second = stored(core, 2)
    ended(core, first, "failed")
    ended(core, second, "failed")

    retry(core, first, by="ana")

    with pytest.raises(Exception, match="no legal transition"):
        core.fetch("UPDATE esteira_job SET state = 'queued', finished_at = NULL WHERE id = %s", [second])


def test_both_work_inside_a_callers_transaction_too(core: PrivateConnection) -> None:
    (job,) = stored(core)
    orm = DjangoConnection()

    with orm.transaction():
        assert cancel(orm, job, by="ana", force=False) == "cancelled"
        assert retry(orm, job, by="ana") == "cancelled"

    assert look(core, job).state == "queued"
