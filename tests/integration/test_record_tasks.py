"""Rows of adopted Celery tasks: their ids, their retries, their rejected messages, and what an operator's retry clears."""

from __future__ import annotations

import json
from itertools import takewhile
from uuid import uuid4

import pytest
from psycopg.errors import CheckViolation

from esteira.broker.batching import Typical, hints
from esteira.db import PrivateConnection
from esteira.keeper.retention import Retention
from esteira.record import finish, operate, rescue, results, tasks
from esteira.record.claim import claim
from esteira.record.publish import mark
from esteira.record.task_rows import rows_of
from esteira.record.tasks import insert
from esteira.values.bounds import MESSAGE_BYTES
from tests.support.jobs import look, outcome
from tests.support.tasks import TASK, new_task, sent, started

DAY_S = 86400.0
ALL = "SELECT id FROM esteira_job"
TABLES = {
    "esteira_taskresult": "task_id",
    "esteira_taskgroup": "group_id",
    "esteira_taskchord": "chord_id",
    "esteira_taskchordpart": "chord_id",
}


@pytest.mark.parametrize(
    "task_id",
    ["3f0c1a52-7d8e-4b7e-9a55-0d1c2b3a4f5e", "order-7/é", "A" * 250, "3f0c1a527d8e4b7e9a550d1c2b3a4f5e"],
)
def test_a_task_keeps_the_id_that_its_caller_knows(core: PrivateConnection, task_id: str) -> None:
    job_id = sent(core, task_id=task_id)

    assert look(core, job_id).task_id == task_id
    assert rows_of(core, [task_id])[task_id].id == job_id


@pytest.mark.parametrize("together", [True, False])
def test_two_sends_under_one_id_are_two_rows(core: PrivateConnection, together: bool) -> None:
    task_id = str(uuid4())
    first, second = new_task(task_id=task_id), new_task(task_id=task_id)

    for part in [[first, second]] if together else [[first], [second]]:
        insert(core, part)

    assert core.fetch("SELECT id, task_id FROM esteira_job ORDER BY id") == [
        (first.id, task_id),
        (second.id, task_id),
    ]


def test_the_message_is_stored_byte_for_byte(core: PrivateConnection) -> None:
    message = bytes(range(256)) * 100

    job = started(core, message=message)

    assert job.message == message


def test_the_database_refuses_a_longer_message(core: PrivateConnection) -> None:
    with pytest.raises(CheckViolation, match="job_message_size"):
        insert(core, [new_task(message=b"x" * (MESSAGE_BYTES + 1))])


def test_a_hint_shows_the_task_and_names_the_row(core: PrivateConnection) -> None:
    job_id = sent(core, task_id="order-7")

    (hint,) = hints(((one, [one.id]) for one in mark(core, ALL, {})), Typical())

    headers = hint.headers()
    assert (headers["task"], headers["shadow"], headers["id"]) == ("esteira.door", TASK, "order-7")
    assert headers["argsrepr"] == "(1,)"
    assert headers["delivery"] != headers["id"]
    assert hint.ids == [job_id]


def test_a_retry_is_the_same_row_with_the_new_message(core: PrivateConnection) -> None:
    job = started(core, priority=9)
    following = new_task(task_id=job.task_id, message=b"second", queue="mail", delay_s=60.0)

    hint_now = tasks.again(
        core, job.id, job.attempt, following, error='{"kind": "retry"}', started_s=0.1, keeps_priority=True
    )

    row = look(core, job.id)
    assert hint_now is False
    assert (row.state, row.failures, row.queue, row.priority) == ("queued", 1, "mail", 9)
    assert 55 < row.run_in <= 60
    assert core.fetch("SELECT message FROM esteira_job")[0][0] == b"second"
    assert tasks.became(core, job.id, job.attempt, b"second") == ("queued", True, False)


def test_a_retry_of_an_attempt_that_lost_its_row_changes_nothing(core: PrivateConnection) -> None:
    job = started(core)
    rescue.process_lost(core, "d1")
    (later,) = claim(core, [job.id], worker="w2/boot", delivery="d2")

    again = tasks.again(
        core, job.id, job.attempt, new_task(message=b"second"), error="{}", started_s=0, keeps_priority=True
    )

    assert again is None
    assert look(core, job.id).attempt == later.attempt
    assert core.fetch("SELECT message FROM esteira_job")[0][0] != b"second"


def test_a_revoked_task_that_asks_to_be_tried_again_is_cancelled(core: PrivateConnection) -> None:
    job = started(core)
    operate.cancel(core, job.id, by="revoke", force=False)

    tasks.again(core, job.id, job.attempt, new_task(), error="{}", started_s=0, keeps_priority=True)

    assert look(core, job.id).state == "cancelled"


def test_a_rejected_message_waits_longer_each_time(core: PrivateConnection) -> None:
    job_id, waits = sent(core), []
    for _ in range(4):
        core.fetch("UPDATE esteira_job SET hold_until = NULL")
        (job,) = claim(core, [job_id], worker="w1/boot", delivery="d1")
        assert tasks.reject(core, job.id, job.attempt)
        waits.append(look(core, job_id).hold_in)

    assert [round(wait, 1) for wait in waits] == [0.5, 1.0, 2.0, 4.0]
    assert look(core, job_id).suspicion == 0


def test_a_task_under_a_revoked_id_never_starts(core: PrivateConnection) -> None:
    results.revoke(core, ["order-7"], DAY_S)

    job = started(core, task_id="order-7")

    assert job.cancelled


def test_a_retry_by_an_operator_forgets_failure_and_revocation(core: PrivateConnection) -> None:
    job = started(core)
    finish.finish(core, [outcome(job, "given_up")])
    tasks.settle_mine(core, job.id, job.attempt)
    results.store_result(core, str(job.task_id), "FAILURE", b"no", DAY_S)
    results.revoke(core, [str(job.task_id)], DAY_S)

    operate.retry(core, job.id, by="ana")

    row = look(core, job.id)
    assert (row.state, row.settled) == ("queued", False)
    assert results.results(core, [str(job.task_id)]) == {}
    assert core.fetch("SELECT 1 FROM esteira_taskrevoked") == []


def test_a_stored_success_is_never_overwritten(core: PrivateConnection) -> None:
    for state, payload in (("STARTED", b"1"), ("SUCCESS", b"2"), ("FAILURE", b"3"), ("SUCCESS", b"4")):
        results.store_result(core, "a", state, payload, DAY_S)

    assert results.results(core, ["a", "b"]) == {"a": b"2"}


def test_an_expired_result_is_gone_and_may_be_stored_again(core: PrivateConnection) -> None:
    results.store_result(core, "a", "SUCCESS", b"1", 0.0)
    assert results.results(core, ["a"]) == {}

    results.store_result(core, "a", "FAILURE", b"2", None)

    assert results.results(core, ["a"]) == {"a": b"2"}


def test_a_chord_is_complete_with_its_last_part_whatever_is_repeated(core: PrivateConnection) -> None:
    def part(task_id: str, place: int) -> bool:
        return results.add_part(core, "c", task_id, place, task_id.encode(), keep_s=DAY_S)

    assert not part("second", 1)  # its size is not known yet
    results.resize_chord(core, "c", size=2, keep_s=DAY_S)
    results.resize_chord(core, "c", added=1, keep_s=DAY_S)
    assert [part("second", 1), part("first", 0), part("first", 0)] == [False, False, False]
    assert part("third", 2)

    assert results.end_chord(core, "c") == [b"first", b"second", b"third"]
    assert not part("third", 2)


def test_rows_show_how_a_task_ended_without_a_result(core: PrivateConnection) -> None:
    ended = sent(core, task_id="ended")
    sent(core, task_id="waiting")
    operate.cancel(core, ended, by="revoke", force=False)

    rows = rows_of(core, ["ended", "waiting", "never sent"])

    assert {task_id: row.state for task_id, row in rows.items()} == {
        "ended": "cancelled",
        "waiting": "queued",
    }


def test_people_see_the_arguments_as_the_sender_shows_them(core: PrivateConnection) -> None:
    job_id = sent(core, said={"*args": "('***',)", "**kwargs": "{}"})

    assert look(core, job_id).params == json.loads('{"*args": "(\'***\',)", "**kwargs": "{}"}')


def test_what_celery_keeps_of_tasks_is_deleted_at_its_own_moment(core: PrivateConnection) -> None:
    for name, keep_s in (("over", 0.0), ("kept", DAY_S), ("for ever", None)):
        results.store_result(core, name, "SUCCESS", b"1", keep_s)
        results.save_group(core, name, b"1", keep_s)
        results.add_part(core, name, "part", 0, b"1", keep_s=keep_s)
    results.revoke(core, ["over"], 0.0)
    retention = Retention()

    for _ in takewhile(lambda _: retention.step(core) or not retention._next, range(500)):
        pass

    for table, key in TABLES.items():
        assert {row[0] for row in core.fetch(f"SELECT {key} FROM {table}")} == {"kept", "for ever"}, table
    assert core.fetch("SELECT 1 FROM esteira_taskrevoked") == []
