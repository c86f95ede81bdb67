"""T4 extend, T5 succeed, T6 fail, T10 hand back, T12 by force: what the process that runs a job writes."""

from __future__ import annotations

import pytest
from django.db import transaction

from esteira.db import DjangoConnection, PrivateConnection
from esteira.ids import uuid7
from esteira.record.claim import claim
from esteira.record.finish import complete, finish, what_became
from esteira.record.lease import extend, hand_back, kill
from esteira.record.operate import cancel, retry
from esteira.record.telling import progress, start
from tests.support.jobs import elapse, ended, kinds, look, outcome, running, states, stored, version


def test_a_success_is_recorded_with_its_result_and_its_times(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert finish(core, [outcome(job, started_s=1.0, ended_s=3.5)]) == {job.id: "succeeded"}

    row = look(core, job.id)
    assert (row.state, row.result, row.error, row.failures) == ("succeeded", {"ok": True}, None, 0)
    assert (row.worker, row.lease_until, row.published_at) == (None, None, None)
    took = core.fetch(
        """SELECT extract(epoch FROM started_at - claimed_at), extract(epoch FROM finished_at - claimed_at)
           FROM esteira_job"""
    )
    assert took == [(pytest.approx(1.0), pytest.approx(3.5))]


def test_the_happy_path_writes_no_event(core: PrivateConnection) -> None:
    (job,) = running(core)

    finish(core, [outcome(job)])

    assert kinds(core, job.id) == []


def test_a_result_may_be_nothing(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert finish(core, [outcome(job, result=None)]) == {job.id: "succeeded"}
    assert look(core, job.id).result is None


def test_a_failure_waits_for_its_next_try_by_the_databases_clock(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert finish(core, [outcome(job, "failed", delay_s=30)]) == {job.id: "queued"}

    row = look(core, job.id)
    assert (row.failures, row.attempt, row.error["message"]) == (1, 1, "no")
    assert (row.finished_at, row.worker, row.published_at) == (None, None, None)
    assert 28 < row.run_in <= 30
    assert kinds(core, job.id) == ["retry_scheduled"]


def test_the_last_failure_fails_the_job(core: PrivateConnection) -> None:
    (job,) = running(core, max_failures=2)
    finish(core, [outcome(job, "failed")])
    (again,) = claim(core, [job.id], worker="w", delivery="d")

    assert finish(core, [outcome(again, "failed")]) == {job.id: "failed"}

    row = look(core, job.id)
    assert (row.failures, row.attempt, row.error["message"]) == (2, 2, "no")
    assert row.finished_at
    assert kinds(core, job.id) == ["retry_scheduled", "failed"]


def test_a_job_without_retries_fails_at_once(core: PrivateConnection) -> None:
    (job,) = running(core, max_failures=1)

    assert finish(core, [outcome(job, "failed")]) == {job.id: "failed"}


def test_giving_up_fails_whatever_tries_are_left(core: PrivateConnection) -> None:
    (job,) = running(core, max_failures=9)

    assert finish(core, [outcome(job, "given_up")]) == {job.id: "failed"}
    assert look(core, job.id).failures == 1


def test_a_success_after_failures_leaves_no_error(core: PrivateConnection) -> None:
    (job,) = running(core)
    finish(core, [outcome(job, "failed")])
    (again,) = claim(core, [job.id], worker="w", delivery="d")

    finish(core, [outcome(again)])

    row = look(core, job.id)
    assert (row.state, row.error, row.failures) == ("succeeded", None, 1)


def test_a_stopped_job_is_cancelled_and_counts_no_failure(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert finish(core, [outcome(job, "cancelled")]) == {job.id: "cancelled"}
    assert look(core, job.id).failures == 0
    assert kinds(core, job.id) == ["cancelled"]


@pytest.mark.parametrize("kind", ["failed", "given_up", "cancelled"])
def test_a_job_that_fails_after_a_cancel_is_cancelled_and_not_tried_again(
    core: PrivateConnection, kind: str
) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=False)

    assert finish(core, [outcome(job, kind)]) == {job.id: "cancelled"}


def test_a_success_that_came_before_the_cancel_was_seen_stays_a_success(core: PrivateConnection) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=False)

    assert finish(core, [outcome(job)]) == {job.id: "succeeded"}


def test_a_list_of_different_ends_is_recorded_at_once(core: PrivateConnection) -> None:
    jobs = running(core, 4)
    ends = ["succeeded", "failed", "given_up", "cancelled"]

    done = finish(core, [outcome(job, end) for job, end in zip(jobs, ends, strict=True)])

    assert [done[job.id] for job in jobs] == ["succeeded", "queued", "failed", "cancelled"]
    assert states(core, [job.id for job in jobs]) == ["succeeded", "queued", "failed", "cancelled"]


@pytest.mark.parametrize("kind", ["succeeded", "failed", "given_up", "cancelled"])
def test_an_old_attempt_changes_nothing(core: PrivateConnection, kind: str) -> None:
    (old,) = running(core)
    hand_back(core, [(old.id, 1)])
    (new,) = claim(core, [old.id], worker="w2/boot", delivery="d2")
    before = version(core, old.id)

    assert finish(core, [outcome(old, kind)]) == {}
    assert extend(core, [(old.id, 1)]) == {}
    assert hand_back(core, [(old.id, 1)]) == 0
    assert not kill(core, old.id, 1)
    start(core, old.id, 1, 0.0)
    progress(core, old.id, 1, 1, 2, "from the grave")

    assert version(core, old.id) == before
    assert new.attempt == 2
    assert kinds(core, old.id) == []


@pytest.mark.parametrize("state", ["failed", "dead", "cancelled", "expired"])
def test_an_ended_job_takes_no_late_result(core: PrivateConnection, state: str) -> None:
    (job,) = running(core)
    hand_back(core, [(job.id, 1)])
    ended(core, job.id, state)
    before = version(core, job.id)

    assert finish(core, [outcome(job)]) == {}
    assert version(core, job.id) == before


def test_in_a_mixed_list_only_the_zombie_is_refused(core: PrivateConnection) -> None:
    mine, zombie = running(core, 2)
    hand_back(core, [(zombie.id, 1)])

    assert finish(core, [outcome(zombie), outcome(mine)]) == {mine.id: "succeeded"}
    assert look(core, zombie.id).state == "queued"


def test_a_refused_completion_takes_its_transactions_effects_with_it(core: PrivateConnection) -> None:
    (job,) = running(core)
    core.fetch("UPDATE esteira_job SET state = 'queued', worker = NULL, lease_until = NULL")

    with transaction.atomic():
        DjangoConnection().fetch("INSERT INTO esteira_queue VALUES ('effect', NULL, '', '')")
        if job.id not in finish(DjangoConnection(), [outcome(job)]):
            transaction.set_rollback(True)

    assert core.fetch("SELECT * FROM esteira_queue") == []


@pytest.mark.parametrize(
    ("kind", "state"),
    [("succeeded", "succeeded"), ("failed", "queued"), ("given_up", "failed"), ("cancelled", "cancelled")],
)
def test_a_repeat_after_a_lost_answer_counts_as_recorded_and_changes_nothing(
    core: PrivateConnection, kind: str, state: str
) -> None:
    (job,) = running(core)
    finish(core, [outcome(job, kind, delay_s=60)])
    before = version(core, job.id)

    assert finish(core, [outcome(job, kind, delay_s=60)]) == {job.id: state}
    assert version(core, job.id) == before


def test_a_repeat_of_a_failure_that_ended_in_a_cancel_counts_as_recorded(core: PrivateConnection) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=False)
    finish(core, [outcome(job, "failed")])

    assert finish(core, [outcome(job, "failed")]) == {job.id: "cancelled"}


def test_what_somebody_else_recorded_does_not_count_as_mine(core: PrivateConnection) -> None:
    """A rescue put the job back, or an operator did: the late outcome was never recorded."""
    back, cancelled = running(core, 2)
    hand_back(core, [(back.id, 1), (cancelled.id, 1)])
    cancel(core, cancelled.id, by="ana", force=False)

    late = [outcome(back), outcome(back, "failed"), outcome(cancelled)]

    assert what_became(core, late) == {}


def test_a_completion_with_effects_counts_only_what_its_own_statement_moved(core: PrivateConnection) -> None:
    """A repeat would commit its effects a second time; for ends without effects it counts as recorded."""
    (job,) = running(core)

    assert complete(core, outcome(job))
    assert not complete(core, outcome(job))
    assert finish(core, [outcome(job)]) == {job.id: "succeeded"}


def test_files_of_the_attempt_that_succeeded_are_attached_and_no_others(core: PrivateConnection) -> None:
    (old,) = running(core)
    hand_back(core, [(old.id, 1)])
    (job,) = claim(core, [old.id], worker="w", delivery="d")
    for attempt in (1, 2):
        core.fetch(
            """INSERT INTO esteira_file (id, job_id, attempt, name, content_type, size, sha256)
               VALUES (%s, %s, %s, 'out.csv', 'text/csv', 0, '')""",
            [uuid7(), job.id, attempt],
        )

    assert finish(core, [outcome(job, files=True)]) == {job.id: "succeeded"}

    attached = core.fetch("SELECT attempt FROM esteira_file WHERE attached_at IS NOT NULL")
    assert attached == [(2,)]


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_files_of_an_attempt_that_did_not_succeed_are_not_attached(
    core: PrivateConnection, kind: str
) -> None:
    (job,) = running(core)
    core.fetch(
        """INSERT INTO esteira_file (id, job_id, attempt, name, content_type, size, sha256)
           VALUES (%s, %s, 1, 'out.csv', 'text/csv', 0, '')""",
        [uuid7(), job.id],
    )

    finish(core, [outcome(job, kind, files=True)])

    assert core.fetch("SELECT count(*) FROM esteira_file WHERE attached_at IS NOT NULL") == [(0,)]


def test_extending_moves_the_lease_and_brings_the_wish_to_cancel(core: PrivateConnection) -> None:
    calm, asked, forced = running(core, 3, lease_s=20)
    for job in (calm, asked, forced):
        elapse(core, job.id, "lease_until", 15)
    cancel(core, asked.id, by="ana", force=False)
    cancel(core, forced.id, by="ana", force=True)

    answer = extend(core, [(job.id, 1) for job in (calm, asked, forced)])

    assert answer == {calm.id: (False, False), asked.id: (True, False), forced.id: (True, True)}
    assert all(19 < look(core, job.id).lease_in <= 20 for job in (calm, asked, forced))


def test_a_lease_that_has_ended_may_be_extended_while_nobody_took_it(core: PrivateConnection) -> None:
    (job,) = running(core)
    elapse(core, job.id, "lease_until")

    assert extend(core, [(job.id, 1)]) == {job.id: (False, False)}


def test_extending_nothing_is_harmless(core: PrivateConnection) -> None:
    assert extend(core, []) == {}


def test_a_start_is_said_once_it_is_known(core: PrivateConnection) -> None:
    (job,) = running(core)

    start(core, job.id, 1, 0.25)
    finish(core, [outcome(job, started_s=9.0, ended_s=10.0)])

    assert core.fetch("SELECT extract(epoch FROM started_at - claimed_at) FROM esteira_job") == [
        (pytest.approx(0.25),)
    ]


def test_progress_is_stored_while_the_attempt_runs(core: PrivateConnection) -> None:
    (job,) = running(core)

    progress(core, job.id, 1, 3, None, "Sending")

    row = look(core, job.id)
    assert (row.progress_done, row.progress_total, row.progress_text) == (3, None, "Sending")


def test_handing_back_counts_nothing_and_can_ask_for_solitude(core: PrivateConnection) -> None:
    calm, solo, unwanted = running(core, 3)
    cancel(core, unwanted.id, by="ana", force=False)

    assert hand_back(core, [(calm.id, 1), (unwanted.id, 1)]) == 2
    assert hand_back(core, [(solo.id, 1)], solo=True) == 1
    assert hand_back(core, []) == 0

    assert states(core, [calm.id, solo.id, unwanted.id]) == ["queued", "queued", "cancelled"]
    row = look(core, solo.id)
    assert (row.solo, row.failures, row.suspicion, row.published_at) == (True, 0, 0, None)
    assert not look(core, calm.id).solo


def test_a_forced_cancel_ends_a_running_job_and_says_by_whom(core: PrivateConnection) -> None:
    (job,) = running(core)
    cancel(core, job.id, by="ana", force=True)

    assert kill(core, job.id, 1)
    assert not kill(core, job.id, 1)

    assert look(core, job.id).state == "cancelled"
    events = core.fetch("SELECT kind, by FROM esteira_jobevent ORDER BY id")
    assert events == [("cancel", "ana"), ("cancelled", "ana")]


def test_an_attempt_from_before_an_operators_retry_is_still_fenced_off(core: PrivateConnection) -> None:
    (job,) = running(core, max_failures=1)
    finish(core, [outcome(job, "failed")])
    retry(core, job.id, by="ana")
    (again,) = claim(core, [job.id], worker="w", delivery="d")

    assert finish(core, [outcome(job)]) == {}
    assert finish(core, [outcome(again)]) == {job.id: "succeeded"}


def test_a_result_with_a_nul_character_is_an_error_of_the_data_and_loses_nothing(
    core: PrivateConnection,
) -> None:
    (job,) = running(core)

    with pytest.raises(Exception, match="u0000|NUL"):
        finish(core, [outcome(job, result='{"text": "\\u0000"}')])

    assert look(core, job.id).state == "running"
    assert finish(core, [outcome(job)]) == {job.id: "succeeded"}


def test_stored_jobs_that_never_ran_cannot_succeed(core: PrivateConnection) -> None:
    (job,) = stored(core)
    (other,) = running(core)

    assert finish(core, [outcome(other, id=job, attempt=0)]) == {}
    assert look(core, job).state == "queued"
