"""T7, T8, T9, T10: jobs of processes that are gone return, and only the culprit gathers suspicion."""

from __future__ import annotations

from typing import Any

import pytest

from esteira.db import PrivateConnection
from esteira.record.claim import Claimed, claim, refuse
from esteira.record.finish import finish
from esteira.record.lease import Break, break_off, hand_back
from esteira.record.operate import cancel
from esteira.record.rescue import drained, leases_ended, process_ended, process_lost, worker_restarted
from tests.support.jobs import elapse, kinds, look, outcome, running, states, stored


def test_a_lease_that_ended_sends_the_job_back_with_a_little_suspicion(core: PrivateConnection) -> None:
    (job,) = running(core)
    before = look(core, job.id)
    elapse(core, job.id, "lease_until")

    assert leases_ended(core) == {job.id: "queued"}

    row = look(core, job.id)
    assert (row.suspicion, row.failures, row.attempt, row.solo) == (1, 0, 1, False)
    assert (row.worker, row.lease_until, row.published_at, row.run_at) == (None, None, None, before.run_at)
    assert core.fetch("SELECT kind, attempt, worker, detail->>'reason' FROM esteira_jobevent") == [
        ("rescued", 1, "w1/boot", "lease ended")
    ]


CAUSE = Break(reason="connection lost", type="ConnectionLost", message="It was cut.")


@pytest.mark.parametrize(
    ("back", "rests"),
    [
        (lambda db, job: hand_back(db, [(job.id, 1)]), 0),
        (lambda db, job: break_off(db, job.id, 1, CAUSE), 1),
        (lambda db, job: refuse(db, [(job.id, 1, "no")], worker="w1/boot"), 0.5),
        (lambda db, job: drained(db, me=f"w1/{job.id}"), 0),
        (lambda db, job: process_lost(db, f"d{job.id}", [job.id]), 0),
    ],
    ids=["handed back", "broken off", "refused", "drained", "process lost"],
)
def test_whatever_goes_back_is_due_at_once_or_after_its_rest_though_the_clock_has_stepped_back(
    core: PrivateConnection, back: Any, rests: float
) -> None:
    (job,) = running(core)
    core.fetch(
        """UPDATE esteira_job SET run_at = run_at + interval '1 hour', worker = 'w1/' || id, delivery = 'd' || id"""
    )

    back(core, job)

    row = look(core, job.id)
    assert row.state == "queued"
    assert row.run_in <= 0
    assert (row.hold_in or 0) <= rests


def test_a_lease_that_still_holds_is_left_alone(core: PrivateConnection) -> None:
    (job,) = running(core)

    assert leases_ended(core) == {}
    assert look(core, job.id).state == "running"


def test_only_the_first_of_two_keepers_rescues(core: PrivateConnection) -> None:
    (job,) = running(core)
    elapse(core, job.id, "lease_until")

    assert leases_ended(core) == {job.id: "queued"}
    assert leases_ended(core) == {}
    assert look(core, job.id).suspicion == 1


def test_a_lost_pool_process_is_a_certain_culprit(core: PrivateConnection) -> None:
    mine, other = running(core, delivery="d1")[0], running(core, delivery="d2")[0]

    assert process_lost(core, "d1") == {mine.id: "queued"}
    assert process_lost(core, "d1") == {}

    assert look(core, mine.id).suspicion == 2
    assert look(core, other.id).state == "running"


def die(core: PrivateConnection, job: Claimed, times: int, *, how: str) -> list[str]:
    """Let a job's process die so many times, and return the states afterwards."""
    seen = []
    for n in range(times):
        if how == "process":
            seen += process_lost(core, "d1").values()
        else:
            elapse(core, job.id, "lease_until")
            seen += leases_ended(core).values()
        if n < times - 1:
            elapse(core, job.id, "hold_until")
            claim(core, [job.id], worker="w1/boot", delivery="d1")
    return seen


@pytest.mark.parametrize(("how", "deaths"), [("process", 3), ("worker", 6)])
def test_a_job_that_keeps_killing_is_dead_in_the_end_and_says_why(
    core: PrivateConnection, how: str, deaths: int
) -> None:
    (job,) = running(core)

    assert die(core, job, deaths, how=how) == ["queued"] * (deaths - 1) + ["dead"]

    row = look(core, job.id)
    assert (row.suspicion, row.failures, row.attempt) == (6, 0, deaths)
    assert row.error["type"] == "ProcessLost" and "6 points" in row.error["message"]
    assert row.finished_at
    assert kinds(core, job.id) == ["rescued"] * (deaths - 1) + ["dead"]


def test_suspects_of_a_lost_worker_part_from_the_second_time_on(core: PrivateConnection) -> None:
    """Or the culprit and whoever ran beside it would be taken up together until both are dead."""
    together = running(core, worker="w1/boot")[0], running(core, worker="w1/boot")[0]
    for job in together:
        elapse(core, job.id, "lease_until")
    leases_ended(core)
    assert [look(core, job.id).hold_until for job in together] == [None, None]

    for job in together:
        claim(core, [job.id], worker="w1/boot", delivery="d1")
        elapse(core, job.id, "lease_until")
    leases_ended(core)

    rests = [look(core, job.id).hold_in for job in together]
    assert rests[0] != rests[1]
    assert all(-1 < rest <= 2 for rest in rests)


def test_suspicion_of_both_kinds_adds_up(core: PrivateConnection) -> None:
    (job,) = running(core)
    die(core, job, 2, how="process")
    claim(core, [job.id], worker="w1/boot", delivery="d1")

    assert die(core, job, 2, how="worker") == ["queued", "dead"]


@pytest.mark.parametrize("how", ["process", "lease", "restart"])
def test_a_batch_that_died_counts_against_nobody_and_its_jobs_run_alone(
    core: PrivateConnection, how: str
) -> None:
    jobs = running(core, 5)
    done, *lost = jobs
    finish(core, [outcome(done)])
    for job in lost:
        elapse(core, job.id, "lease_until")

    rescued = {
        "process": lambda: process_lost(core, "d1"),
        "lease": lambda: leases_ended(core),
        "restart": lambda: worker_restarted(core, incarnation="boot"),
    }[how]()

    assert rescued == {job.id: "queued" for job in lost}
    rows = [look(core, job.id) for job in lost]
    assert {(row.suspicion, row.solo, row.failures) for row in rows} == {(0, True, 0)}
    assert look(core, done.id).state == "succeeded"


def test_a_job_that_was_alone_after_its_batch_died_is_suspected_as_usual(core: PrivateConnection) -> None:
    jobs = running(core, 2)
    process_lost(core, "d1")

    claim(core, [jobs[0].id], worker="w1/boot", delivery="d2")
    process_lost(core, "d2")

    row = look(core, jobs[0].id)
    assert (row.suspicion, row.solo, row.batched) == (2, True, False)


def test_however_many_batches_die_no_innocent_job_is_dead(core: PrivateConnection) -> None:
    (job, *_) = running(core, 2)

    for _ in range(10):
        process_lost(core, "d1")
        claim(core, [job.id, *stored(core)], worker="w", delivery="d1")

    assert look(core, job.id).suspicion == 0


def test_a_restarted_worker_takes_back_what_its_dead_self_held(core: PrivateConnection) -> None:
    mine = running(core, worker="w1/first")[0]
    under_a_former_name = running(core, worker="w1-2/first")[0]
    longer = running(core, worker="w1/the-first")[0]
    fresh = running(core, worker="w1/second")[0]

    rescued = worker_restarted(core, incarnation="first")

    assert rescued == {mine.id: "queued", under_a_former_name.id: "queued"}
    assert look(core, mine.id).suspicion == 1
    assert states(core, [longer.id, fresh.id]) == ["running", "running"]


@pytest.mark.parametrize("incarnation", ["fir%", "firs_", "f\\"])
def test_an_incarnation_is_no_pattern(core: PrivateConnection, incarnation: str) -> None:
    other = running(core, worker="w1/first")[0]
    mine = running(core, worker=f"w1/{incarnation}")[0]

    assert worker_restarted(core, incarnation=incarnation) == {mine.id: "queued"}
    assert look(core, other.id).state == "running"


def test_a_process_that_was_ended_on_purpose_counts_nothing(core: PrivateConnection) -> None:
    jobs = running(core, 2)
    other = running(core, delivery="d2")[0]

    assert process_ended(core, "d1") == {job.id: "queued" for job in jobs}

    rows = [look(core, job.id) for job in jobs]
    assert {(row.suspicion, row.solo, row.failures) for row in rows} == {(0, False, 0)}
    assert look(core, other.id).state == "running"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_drain_counts_nothing(core: PrivateConnection, batch: int) -> None:
    jobs = running(core, batch, worker="w1/boot")
    other = running(core, worker="w2/other")[0]

    assert drained(core, me="w1/boot") == {job.id: "queued" for job in jobs}

    rows = [look(core, job.id) for job in jobs]
    assert {(row.suspicion, row.solo, row.failures, row.state) for row in rows} == {(0, False, 0, "queued")}
    assert look(core, other.id).state == "running"


def test_a_cancelled_job_whose_process_died_is_cancelled_and_not_dead(core: PrivateConnection) -> None:
    (job,) = running(core)
    core.fetch("UPDATE esteira_job SET suspicion = 5")
    cancel(core, job.id, by="ana", force=False)

    assert process_lost(core, "d1") == {job.id: "cancelled"}

    row = look(core, job.id)
    assert row.error is None
    assert kinds(core, job.id) == ["cancel", "cancelled"]


def test_a_rescue_waits_for_nobody(core: PrivateConnection) -> None:
    """A completion under way holds its row; the rescue passes by, and the completion wins."""
    job = running(core)[0]
    elapse(core, job.id, "lease_until")
    other = PrivateConnection("other")
    try:
        with other.transaction():
            finish(other, [outcome(job)])
            assert leases_ended(core) == {}
    finally:
        other.close()

    assert look(core, job.id).state == "succeeded"


def test_the_unfinished_of_many_are_rescued_a_thousand_at_a_time(core: PrivateConnection) -> None:
    running(core, 1001, lease_s=1)
    core.fetch("UPDATE esteira_job SET lease_until = clock_timestamp() - interval '1 second'")

    assert [len(leases_ended(core)), len(leases_ended(core)), len(leases_ended(core))] == [1000, 1, 0]
