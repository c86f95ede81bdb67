"""T3 claim, T14 refuse, T15 expire: only what may run is claimed, and what may not goes quietly back."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from esteira.db import PrivateConnection
from esteira.record.claim import claim, expire, refuse, unpublish_unclaimed
from esteira.record.finish import finish
from esteira.record.insert import insert
from esteira.record.lease import extend
from esteira.record.operate import cancel
from esteira.record.telling import start
from esteira.record.waiting import publish_due
from tests.support.jobs import (
    TYPE,
    elapse,
    ended,
    kinds,
    look,
    new,
    outcome,
    running,
    schedule,
    states,
    stored,
    version,
)


def test_a_claim_hands_over_all_that_running_needs(core: PrivateConnection) -> None:
    (job,) = stored(
        core, params='{"name": "Ana"}', queue="mail", max_failures=3, lease_s=4, timeout_s=30, backoff_s=5
    )

    (claimed,) = claim(core, [job], worker="w1/boot", delivery="d1")

    assert (claimed.id, claimed.attempt, claimed.failures, claimed.max_failures) == (job, 1, 0, 3)
    assert (claimed.type, claimed.queue, claimed.params) == (TYPE, "mail", '{"name": "Ana"}')
    assert (claimed.timeout_s, claimed.lease_s, claimed.backoff_s, claimed.cancelled) == (30, 4, 5, False)
    row = look(core, job)
    assert (row.state, row.worker, row.delivery, row.batched) == ("running", "w1/boot", "d1", False)
    assert row.claimed_at and row.started_at is None
    assert 3 < row.lease_in <= 4


def test_a_second_worker_cannot_claim_a_leased_job(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert claim(core, [job.id], worker="w2/boot", delivery="d2") == []

    row = look(core, job.id)
    assert (row.attempt, row.worker) == (1, "w1/boot")


def test_a_batch_is_claimed_at_once_and_in_the_hints_order(core: PrivateConnection) -> None:
    jobs = stored(core, 20)
    asked = [*jobs[10:], *jobs[:10]]

    claimed = claim(core, asked, worker="w", delivery="d")

    assert [job.id for job in claimed] == asked
    assert all(look(core, job).batched for job in jobs)


def test_a_doubled_or_strange_hint_claims_nothing_twice(core: PrivateConnection) -> None:
    (job,) = stored(core)

    claimed = claim(core, [job, job, uuid4()], worker="w", delivery="d")

    assert [(c.id, c.attempt) for c in claimed] == [(job, 1)]


def test_no_hint_claims_nothing(core: PrivateConnection) -> None:
    assert claim(core, [], worker="w", delivery="d") == []


@pytest.mark.parametrize("state", ["succeeded", "failed", "dead", "cancelled", "expired"])
def test_an_ended_job_is_not_claimed(core: PrivateConnection, state: str) -> None:
    (job,) = stored(core)
    ended(core, job, state)
    before = version(core, job)

    assert claim(core, [job], worker="w", delivery="d") == []
    assert version(core, job) == before


def test_a_job_that_is_not_due_is_not_claimed_and_waits_to_be_published(core: PrivateConnection) -> None:
    (job,) = stored(core, delay_s=60)
    core.fetch("UPDATE esteira_job SET published_at = clock_timestamp()")

    assert claim(core, [job], worker="w", delivery="d") == []

    row = look(core, job)
    assert (row.state, row.published_at, row.attempt) == ("queued", None, 0)


def test_a_held_job_is_not_claimed_and_keeps_its_hold(core: PrivateConnection) -> None:
    (job,) = stored(core, publish=True)
    core.fetch("UPDATE esteira_job SET hold_until = clock_timestamp() + interval '1 minute'")

    assert claim(core, [job], worker="w", delivery="d") == []

    row = look(core, job)
    assert row.published_at is None
    assert row.hold_in > 50


def test_a_paused_queues_jobs_are_not_claimed_until_it_is_resumed(core: PrivateConnection) -> None:
    core.fetch(
        "INSERT INTO esteira_queue VALUES ('default', clock_timestamp(), 'ana', ''), ('mail', NULL, '', '')"
    )
    (paused,), (mail,) = stored(core, publish=True), stored(core, queue="mail", publish=True)

    assert [job.id for job in claim(core, [paused, mail], worker="w", delivery="d")] == [mail]
    assert look(core, paused).published_at is None
    core.fetch("UPDATE esteira_queue SET paused_at = NULL")

    assert len(claim(core, [paused], worker="w", delivery="d")) == 1


def test_a_job_whose_time_has_passed_expires_at_the_claim(core: PrivateConnection) -> None:
    late, due = stored(core, 2, publish=True, expires_in_s=60)
    elapse(core, late, "expires_at")

    assert [job.id for job in claim(core, [late, due], worker="w", delivery="d")] == [due]

    row = look(core, late)
    assert (row.state, row.attempt, row.published_at) == ("expired", 0, None)
    assert row.finished_at


def test_a_cancel_that_came_first_is_seen_by_the_claim(core: PrivateConnection) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=False)
    core.fetch("UPDATE esteira_job SET state = 'queued', worker = NULL, lease_until = NULL")

    (again,) = claim(core, [job.id], worker="w", delivery="d")

    assert again.cancelled


def test_the_attempt_counts_on_whatever_happened_before(core: PrivateConnection) -> None:
    (job,) = running(core)
    finish(core, [outcome(job, "failed", delay_s=0)])

    (again,) = claim(core, [job.id], worker="w", delivery="d")

    assert (again.attempt, again.failures) == (2, 1)


def test_a_claim_wipes_the_progress_of_the_try_before(core: PrivateConnection) -> None:
    (job,) = stored(core)
    core.fetch("UPDATE esteira_job SET progress_done = 3, progress_total = 4, progress_text = 'Almost'")

    claim(core, [job], worker="w", delivery="d")

    row = look(core, job)
    assert (row.progress_done, row.progress_total, row.progress_text) == (None, None, "")


def in_turn(core: PrivateConnection, n: int = 1) -> list[UUID]:
    nightly = schedule(core)
    jobs = [
        new(schedule_id=nightly, tick_at=datetime(2026, 1, 1 + i, 3, tzinfo=UTC), in_turn=True, publish=True)
        for i in range(n)
    ]
    return list(insert(core, jobs))


def test_jobs_in_turn_run_one_after_the_other(core: PrivateConnection) -> None:
    first, second = in_turn(core, 2)

    (one,) = claim(core, [first], worker="w", delivery="d1")
    assert claim(core, [second], worker="w", delivery="d2") == []
    waiting = look(core, second)
    finish(core, [outcome(one)])
    elapse(core, second, "hold_until")

    assert waiting.published_at is None and waiting.hold_in > 0
    assert len(claim(core, [second], worker="w", delivery="d3")) == 1


def test_of_jobs_in_turn_within_one_hint_only_one_runs(core: PrivateConnection) -> None:
    jobs = in_turn(core, 3)

    assert len(claim(core, jobs, worker="w", delivery="d")) == 1
    assert sorted(states(core, jobs)) == ["queued", "queued", "running"]


def test_settling_a_hint_of_an_unknown_type_lets_its_jobs_rest(core: PrivateConnection) -> None:
    jobs = stored(core, 3, publish=True)

    assert unpublish_unclaimed(core, jobs, hold_s=2) == 3

    assert all(0 < look(core, job).hold_in <= 2 for job in jobs)
    assert publish_due(core, queue="default", types=[TYPE], priorities=[6], limit=9).published == []


def test_settling_touches_nothing_that_runs_or_waits_to_be_published(core: PrivateConnection) -> None:
    (busy,), (waiting,) = running(core), stored(core)
    before = vars(look(core, waiting))["run_at"]

    assert unpublish_unclaimed(core, [busy.id, waiting], hold_s=2) == 0
    assert look(core, busy.id).state == "running"
    assert look(core, waiting).hold_until is None
    assert look(core, waiting).run_at == before


def test_refused_parameters_send_a_job_back_to_rest_without_counting(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert refuse(core, [(job.id, job.attempt, "#/params/n: is required.")], worker="w1") == 1

    row = look(core, job.id)
    assert (row.state, row.failures, row.suspicion, row.published_at) == ("queued", 0, 0, None)
    assert row.refused_since and 0 < row.hold_in <= 2
    assert kinds(core, job.id) == ["refused"]


def test_parameters_refused_for_ten_minutes_fail_the_job_and_say_why(core: PrivateConnection) -> None:
    (job,) = running(core)
    refuse(core, [(job.id, 1, "first")], worker="w1")
    elapse(core, job.id, "hold_until")
    (again,) = claim(core, [job.id], worker="w", delivery="d")
    refuse(core, [(job.id, again.attempt, "again")], worker="w1")
    assert kinds(core, job.id) == ["refused"]
    elapse(core, job.id, "hold_until")
    elapse(core, job.id, "refused_since", 601)
    (last,) = claim(core, [job.id], worker="w", delivery="d")

    refuse(core, [(job.id, last.attempt, "#/params/n: is required.")], worker="w1")

    row = look(core, job.id)
    assert (row.state, row.error["kind"], row.error["message"]) == (
        "failed",
        "refused",
        "#/params/n: is required.",
    )
    assert row.finished_at and row.hold_until is None
    assert kinds(core, job.id) == ["refused", "failed"]


def test_a_success_forgets_that_an_older_release_refused(core: PrivateConnection) -> None:
    (job,) = running(core)
    refuse(core, [(job.id, 1, "old release")], worker="w1")
    elapse(core, job.id, "hold_until")
    (again,) = claim(core, [job.id], worker="w", delivery="d")

    finish(core, [outcome(again)])

    assert look(core, job.id).refused_since is None


def test_refusing_obeys_the_fence_and_a_cancel_and_takes_back_a_start_that_was_told(
    core: PrivateConnection,
) -> None:
    old, begun, unwanted = (running(core)[0] for _ in range(3))
    start(core, begun.id, 1, 0.0)
    cancel(core, unwanted.id, by="ana", force=False)

    refuse(core, [(old.id, 0, "r"), (begun.id, 1, "r"), (unwanted.id, 1, "r")], worker="w1")

    assert states(core, [old.id, begun.id, unwanted.id]) == ["running", "queued", "cancelled"]
    assert look(core, begun.id).started_at is None
    assert extend(core, [(old.id, 1)])


def test_expire_ends_what_waited_too_long_and_nothing_else(core: PrivateConnection) -> None:
    late = stored(core, 3, expires_in_s=60)
    for job in late:
        elapse(core, job, "expires_at")
    fresh = stored(core, expires_in_s=60)
    (busy,) = running(core, expires_in_s=60)
    elapse(core, busy.id, "expires_at")
    (done,) = stored(core, expires_in_s=60)
    ended(core, done, "cancelled")
    elapse(core, done, "expires_at")

    assert expire(core, limit=2) == 2
    assert expire(core) == 1
    assert expire(core) == 0

    assert states(core, late) == ["expired"] * 3
    assert states(core, [*fresh, busy.id, done]) == ["queued", "running", "cancelled"]
