"""Deletion of a schedule: its jobs stay, and no statement rewrites them, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from django.db import transaction
from django.test import Client

from esteira.db import DjangoConnection, PrivateConnection
from esteira.models import Job, Schedule, ScheduleSkip
from esteira.record.claim import claim
from esteira.record.operate import retry
from esteira.record.publish import publish_turns
from tests.support import jobs_command
from tests.support.clients import account, bearer, browser, get
from tests.support.jobs import TYPE, ended, look, schedule, stored

pytestmark = pytest.mark.django_db

ENDED = """
INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, schedule_id,
  tick_at, state, finished_at)
SELECT gen_random_uuid(), %(type)s, '{}', 'default', 6, 1, 2, 10, 600, %(schedule)s,
  clock_timestamp() - n * interval '1 minute', 'succeeded', clock_timestamp() FROM generate_series(1, %(n)s) n"""
SKIPS = """INSERT INTO esteira_scheduleskip (schedule_id, tick_at, reason)
SELECT %(schedule)s, clock_timestamp() - n * interval '1 minute', 'overlap' FROM generate_series(1, %(n)s) n"""
#: What a transaction has read and written of the jobs and the skips so far.
COST = """SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0), coalesce(sum(n_tup_upd + n_tup_del), 0)
FROM pg_stat_xact_user_tables WHERE relname IN ('esteira_job', 'esteira_scheduleskip')"""


def by_the_orm(number: int) -> None:
    Schedule.objects.get(pk=number).delete()


def by_a_query(number: int) -> None:
    Schedule.objects.filter(pk=number).delete()


def by_sql(number: int) -> None:
    DjangoConnection().fetch("DELETE FROM esteira_schedule WHERE id = %s", [number])


def in_the_admin(number: int) -> None:
    client = Client()
    client.force_login(account("boss", superuser=True, staff=True))
    assert (
        client.post(f"/admin/esteira/schedule/{number}/delete/", {"post": "yes"}, secure=True).status_code
        == 302
    )


@pytest.mark.parametrize("delete", [by_the_orm, by_a_query, by_sql, in_the_admin])
def test_deleting_a_schedule_neither_reads_nor_writes_its_history(
    core: PrivateConnection, delete: Callable[[int], None]
) -> None:
    number = schedule(core)
    core.fetch(ENDED, {"type": TYPE, "schedule": number, "n": 5000})
    core.fetch(SKIPS, {"schedule": number, "n": 5000})
    core.fetch("ANALYZE esteira_job, esteira_scheduleskip")

    with transaction.atomic():
        delete(number)
        DjangoConnection().fetch("SET CONSTRAINTS ALL IMMEDIATE")  # what a commit looks at
        [(read, written)] = DjangoConnection().fetch(COST)

    assert (int(read) < 50, int(written)) == (True, 0), f"{read} rows read, {written} written"
    assert not Schedule.objects.exists()
    assert Job.objects.count() == ScheduleSkip.objects.count() == 5000


def in_turn(core: PrivateConnection, number: int, n: int = 1) -> list[UUID]:
    return [
        stored(core, schedule_id=number, tick_at=datetime(2026, 1, 1 + i, 3, tzinfo=UTC), in_turn=True)[0]
        for i in range(n)
    ]


def offered(core: PrivateConnection) -> list[UUID]:
    publish_turns(core, served={"default": [TYPE]}, limit=100)
    rows = core.fetch("SELECT id FROM esteira_job WHERE state = 'queued' AND published_at IS NOT NULL")
    return [row[0] for row in rows]


def test_what_a_deleted_schedule_left_waiting_or_running_is_bound_to_no_turn(core: PrivateConnection) -> None:
    number = schedule(core)
    first, *others = in_turn(core, number, 3)
    assert offered(core) == [first]
    assert claim(core, [first], worker="w", delivery="d")

    by_sql(number)

    assert sorted(offered(core)) == sorted(others)
    assert look(core, first).schedule_id is None


def test_a_job_of_a_deleted_schedule_that_is_retried_runs(core: PrivateConnection) -> None:
    number = schedule(core)
    (job,) = in_turn(core, number)
    ended(core, job, "failed")
    by_sql(number)

    assert retry(core, job, by="ana") == "failed"

    assert offered(core) == [job]


def test_a_job_that_is_retried_keeps_the_turn_of_a_schedule_that_is_there(core: PrivateConnection) -> None:
    number = schedule(core)
    first, second = in_turn(core, number, 2)
    ended(core, second, "failed")

    assert retry(core, second, by="ana") == "failed"

    assert look(core, second).schedule_id == number
    assert offered(core) == [first]


def test_a_retry_and_the_deletion_of_its_schedule_wait_for_each_other(core: PrivateConnection) -> None:
    number = schedule(core)
    (job,) = in_turn(core, number)
    ended(core, job, "failed")
    with transaction.atomic():
        assert retry(DjangoConnection(), job, by="ana") == "failed"
        core.fetch("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            core.fetch("DELETE FROM esteira_schedule WHERE id = %s", [number])
    core.fetch("SET lock_timeout = '10s'")

    core.fetch("DELETE FROM esteira_schedule WHERE id = %s", [number])

    assert offered(core) == [job]


def test_a_job_whose_schedule_is_gone_is_shown_without_one(core: PrivateConnection) -> None:
    number = schedule(core)
    (job,) = stored(
        core, schedule_id=number, tick_at=datetime(2026, 1, 1, 3, tzinfo=UTC), by="schedule nightly"
    )
    ended(core, job, "succeeded")
    by_sql(number)
    client = bearer("operator")
    boss = Client()
    boss.force_login(account("boss", superuser=True, staff=True))

    shown = get(client, f"/jobs/{job}").json()
    listed = get(client, "/jobs").json()["items"]
    page = browser("operator").get(f"/jobs/{job}/")
    in_admin = [boss.get(f"/admin/esteira/job/{path}") for path in ("", f"{job}/change/")]
    said = jobs_command.jobs("show", str(job))

    assert (shown["schedule"], shown["submitted_by"]) == (None, "schedule nightly")
    assert [one["schedule"] for one in listed] == [None]
    assert "<dt>Schedule</dt>" not in page.content.decode()
    assert [answer.status_code for answer in (page, *in_admin)] == [200] * 3
    assert "schedule nightly" in said.out
