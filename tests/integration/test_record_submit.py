"""T1 submit, T2 publish: what is stored, what is left out, what is published and in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from django.db import transaction

from esteira import ids
from esteira.db import DjangoConnection, PrivateConnection
from esteira.record import rescue
from esteira.record.claim import claim
from esteira.record.finish import finish
from esteira.record.insert import NewJob, holder, insert
from esteira.record.operate import cancel
from esteira.record.publish import unpublish
from esteira.record.waiting import publish_due
from tests.support.jobs import TYPE, elapse, ended, look, new, outcome, running, schedule, stored

ALL = [3, 6, 9]
#: Moments from 1970 to the year 2100, with each kind of fraction.
SECONDS = (0, 1, 999_999_999, 1_796_000_000, 1_796_000_001, 4_102_444_799)
MICROS = (0, 1, 2, 243, 244, 245, 499_999, 500_000, 999_000, 999_998, 999_999, *range(1_000, 2_000))


def published(
    core: PrivateConnection, limit: int = 100, queue: str = "default", types: tuple[str, ...] = (TYPE,)
) -> list[UUID]:
    return [
        job.id
        for job in publish_due(core, queue=queue, types=list(types), priorities=ALL, limit=limit).published
    ]


def test_a_new_job_waits_in_its_queue_with_everything_it_was_given(core: PrivateConnection) -> None:
    job = new(params='{"name": "Ana"}', queue="mail", priority=3, max_failures=2, lease_s=4.5, by="ana")

    assert insert(core, [job]) == {job.id: False}

    row = look(core, job.id)
    assert (row.state, row.attempt, row.failures, row.suspicion) == ("queued", 0, 0, 0)
    assert (row.params, row.queue, row.priority, row.max_failures) == ({"name": "Ana"}, "mail", 3, 2)
    assert (row.lease_s, row.timeout_s, row.submitted_by) == (4.5, 600, "ana")
    assert row.published_at is None
    assert -5 < row.run_in <= 0


def test_a_job_is_published_at_its_insert_only_if_it_is_due(core: PrivateConnection) -> None:
    now = datetime.now(UTC)
    due, past = new(publish=True), new(publish=True, run_at=now - timedelta(hours=1))
    later, at = new(publish=True, delay_s=60), new(publish=True, run_at=now + timedelta(hours=1))

    assert insert(core, [due, past, later, at]) == {
        due.id: True,
        past.id: True,
        later.id: False,
        at.id: False,
    }
    assert 58 < look(core, later.id).run_in <= 60


def test_ids_are_in_the_order_of_creation_and_of_the_list(core: PrivateConnection) -> None:
    in_order = [one for n in (1, 50, 1, 1000, 2) for one in stored(core, n)]

    rows = core.fetch("SELECT id, created_at FROM esteira_job ORDER BY id")

    assert [one for one, _ in rows] == in_order
    assert [at for _, at in rows] == sorted(at for _, at in rows)
    assert all(ids.lowest(at) < one < ids.highest(at) for one, at in rows)
    assert {(one.version, one.variant) for one, _ in rows} == {(7, RFC_4122)}


def test_the_database_and_python_agree_on_the_time_in_an_id(core: PrivateConnection) -> None:
    moments = [datetime.fromtimestamp(s, UTC) + timedelta(microseconds=n) for s in SECONDS for n in MICROS]

    rows = core.fetch(
        f"SELECT v.at, {ids.of_job('v.at', 'v.noise')} FROM unnest(%(moments)s::timestamptz[]) AS m(at)"
        " CROSS JOIN LATERAL (SELECT m.at, gen_random_uuid() AS noise) AS v",
        {"moments": moments},
    )

    assert len(rows) == len(moments)
    for at, job_id in rows:
        assert ids.lowest(at) < job_id < ids.highest(at)
        assert ids.highest(at) < ids.lowest(at + timedelta(microseconds=1))


FULL = {
    "queue": "mail", "priority": 3, "max_failures": 1, "backoff_s": 1.0, "lease_s": 1.0, "timeout_s": 1.0,
    "run_at": datetime(2026, 1, 2, 3, tzinfo=UTC), "in_turn": True, "by": "ana", "account": "7",
    "publish": True,
}  # fmt: skip
OWN_VALUES = ["id", "created_at", "unique_key", "tick_at", "published_at", "hold_until", "expires_at"]


@pytest.mark.parametrize("given", [{}, FULL, {"delay_s": 60.0, "expires_in_s": 90.0, "publish": True}])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_job_is_stored_alone_as_in_lists_of_alike_and_of_different_jobs(
    core: PrivateConnection, given: dict[str, Any], keyed: bool
) -> None:
    nightly = schedule(core) if keyed else None
    ticks = [datetime(2026, 1, n, 3, tzinfo=UTC) for n in range(1, 6)]

    def jobs(n: int) -> list[NewJob]:
        choices = new(**given, schedule_id=nightly).choices
        made = [NewJob(choices, '{"a": "\\\\\\""}') for _ in range(n)]
        for job in made if keyed else ():
            job.unique_key, job.tick_at = f'"{len(ticks)}\\,', ticks.pop()
        return made

    (alone,), alike, different = jobs(1), jobs(2), [*jobs(1), *jobs(1)]
    asked = [insert(core, some) for some in ([alone], alike, different)]

    rows = [vars(look(core, one)) for some in asked for one in some]
    shapes = [{name: value for name, value in row.items() if name not in OWN_VALUES} for row in rows]
    moments = ("run_at", "run_in", "hold_in", "lease_in")
    assert len(rows) == 5
    assert len({str([v for n, v in shape.items() if n not in moments]) for shape in shapes}) == 1
    assert len({round(row["run_in"]) for row in rows}) == 1
    assert (
        len({row["published_at"] is None for row in rows} | {not due for s in asked for due in s.values()})
        == 1
    )
    assert len({row["expires_at"] is None for row in rows}) == 1
    assert [job.id for job in [alone, *alike, *different]] == [one for some in asked for one in some]


def test_a_thousand_jobs_are_stored_by_one_statement(core: PrivateConnection) -> None:
    assert len(stored(core, 1000)) == 1000
    assert core.fetch("SELECT count(*) FROM esteira_job")[0][0] == 1000


def test_no_jobs_are_stored_of_none(core: PrivateConnection) -> None:
    assert insert(core, []) == {}


def test_a_job_submitted_in_a_transaction_belongs_to_it(database: None, core: PrivateConnection) -> None:
    job = new()

    with transaction.atomic():
        insert(DjangoConnection(), [job])
        assert core.fetch("SELECT 1 FROM esteira_job") == []
        transaction.set_rollback(True)

    assert core.fetch("SELECT 1 FROM esteira_job") == []


def test_a_held_unique_key_leaves_the_second_job_out(core: PrivateConnection) -> None:
    first, second, twin = new(unique_key="k"), new(unique_key="k"), new(unique_key="k")

    assert list(insert(core, [first])) == [first.id]
    assert insert(core, [second, twin]) == {}
    assert holder(core, "k") == first.id


def test_of_two_with_one_key_in_one_list_the_first_is_stored(core: PrivateConnection) -> None:
    first, second = new(unique_key="k"), new(unique_key="k")

    assert list(insert(core, [first, second])) == [first.id]


@pytest.mark.parametrize("state", ["succeeded", "failed", "dead", "cancelled", "expired"])
def test_an_ended_job_gives_its_unique_key_back(core: PrivateConnection, state: str) -> None:
    (first,) = stored(core, unique_key="k")
    ended(core, first, state)

    assert holder(core, "k") is None
    assert len(stored(core, unique_key="k")) == 1


def test_a_running_job_holds_its_unique_key(core: PrivateConnection) -> None:
    (job,) = running(core, unique_key="k")

    assert stored(core, unique_key="k") == []
    assert holder(core, "k") == job.id


def test_one_tick_of_a_schedule_makes_one_job_even_after_it_has_ended(core: PrivateConnection) -> None:
    nightly, tick = schedule(core), datetime(2026, 1, 1, 3, tzinfo=UTC)

    (first,) = stored(core, schedule_id=nightly, tick_at=tick)
    assert stored(core, schedule_id=nightly, tick_at=tick) == []
    ended(core, first, "succeeded")

    assert stored(core, schedule_id=nightly, tick_at=tick) == []
    assert len(stored(core, schedule_id=nightly, tick_at=tick + timedelta(days=1))) == 1


def test_publishing_takes_what_is_most_urgent_first_and_then_what_waits_longest(
    core: PrivateConnection,
) -> None:
    now = datetime.now(UTC)
    jobs = [
        new(priority=priority, run_at=now - timedelta(minutes=minutes))
        for minutes in (1, 3, 2)
        for priority in (9, 3, 6)
    ]
    insert(core, jobs)
    order = [j.id for j in sorted(jobs, key=lambda j: (j.choices.priority, j.choices.run_at))]

    assert published(core, limit=4) == order[:4]
    assert published(core, limit=100) == order[4:]
    assert published(core) == []


def test_publishing_marks_a_row_published_by_the_databases_clock(core: PrivateConnection) -> None:
    (job,) = stored(core)

    published(core)

    age = core.fetch("SELECT extract(epoch FROM clock_timestamp() - published_at) FROM esteira_job")[0][0]
    assert look(core, job).state == "queued"
    assert 0 <= age < 5


def test_publishing_leaves_what_is_not_due_held_expired_elsewhere_or_unknown(core: PrivateConnection) -> None:
    stored(core, delay_s=60)
    stored(core, queue="mail")
    stored(core, type="tests.unknown")
    (held,) = stored(core)
    core.fetch(
        "UPDATE esteira_job SET hold_until = clock_timestamp() + interval '1 minute' WHERE id = %s", [held]
    )
    (late,) = stored(core, expires_in_s=60)
    elapse(core, late, "expires_at")
    (due,) = stored(core)

    assert published(core) == [due]


def test_a_hold_that_is_over_holds_no_longer(core: PrivateConnection) -> None:
    (job,) = stored(core)
    core.fetch("UPDATE esteira_job SET hold_until = clock_timestamp() - interval '1 second'")

    assert published(core) == [job]
    assert look(core, job).hold_until is None


def test_publishing_takes_only_the_priorities_that_have_room(core: PrivateConnection) -> None:
    (high,), (low,) = stored(core, priority=3), stored(core, priority=9)

    rows = publish_due(core, queue="default", types=[TYPE], priorities=[9], limit=10).published

    assert [row.id for row in rows] == [low]
    assert look(core, high).published_at is None


def test_two_keepers_publish_no_row_twice(core: PrivateConnection) -> None:
    stored(core, 50)
    other = PrivateConnection("other")
    try:
        with core.transaction():
            mine = published(core, limit=20)
            theirs = published(other, limit=50)
    finally:
        other.close()

    assert len(mine) == 20
    assert not set(mine) & set(theirs)


def test_what_was_interrupted_goes_to_the_front_and_what_failed_does_not(core: PrivateConnection) -> None:
    interrupted, failed = running(core)[0], running(core)[0]
    core.fetch("UPDATE esteira_job SET delivery = %s WHERE id = %s", [interrupted.id.hex, interrupted.id])
    finish(core, [outcome(failed, "failed")])
    rescue.process_lost(core, interrupted.id.hex)

    rows = publish_due(core, queue="default", types=[TYPE], priorities=ALL, limit=10).published

    assert {row.id: row.front for row in rows} == {interrupted.id: True, failed.id: False}


def test_a_row_whose_hint_is_missing_waits_for_publishing_again(core: PrivateConnection) -> None:
    (job,) = stored(core)
    published(core)
    stamp = core.fetch("SELECT published_at FROM esteira_job")[0][0]

    assert unpublish(core, [job], [stamp - timedelta(seconds=1)]) == 0
    assert unpublish(core, [job], [stamp]) == 1
    assert unpublish(core, [job], [stamp]) == 0

    assert published(core) == [job]


def test_a_row_that_moved_meanwhile_is_not_unpublished(core: PrivateConnection) -> None:
    claimed, cancelled = stored(core, 2)
    published(core)
    stamps = dict(core.fetch("SELECT id, published_at FROM esteira_job"))
    claim(core, [claimed], worker="w", delivery="d")
    cancel(core, cancelled, by="ana", force=False)

    assert unpublish(core, list(stamps), list(stamps.values())) == 0
