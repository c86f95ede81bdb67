"""Another transaction stays open: each caller gets an answer within seconds, and its own transaction goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.db import connection, transaction

from esteira import Context, JobType, job, operate
from esteira.errors import EsteiraError, Held, UniqueConflict
from esteira.models import Job, Queue
from tests.support.clients import bearer, declare_types, post, problem
from tests.support.servers import SuiteServers
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.usefixtures("database", "job_types")
LONG_S = 30


@pytest.fixture
def somebody(servers: SuiteServers) -> Iterator[psycopg.Connection]:
    """Another program's transaction, which does not end."""
    from django.conf import settings

    with psycopg.connect(servers.postgres.url, dbname=settings.DATABASES["default"]["NAME"]) as other:
        yield other
        other.rollback()


@pytest.fixture
def report() -> JobType:
    @job(name="lock.report", unique="daily")
    def report(ctx: Context) -> None: ...

    return report


def hold_key(somebody: psycopg.Connection) -> None:
    somebody.execute(
        """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, unique_key)
           VALUES (gen_random_uuid(), 'lock.report', '{}', 'default', 6, 1, 1, 10, 60, 'lock.report:daily')"""
    )


def lock_timeout() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        return str(cursor.fetchone()[0])


def test_a_submit_whose_key_is_being_submitted_is_told_so(
    somebody: psycopg.Connection, report: JobType
) -> None:
    hold_key(somebody)
    watch = Stopwatch()

    with transaction.atomic():
        Queue.objects.create(name="mine")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '25s'")
        with pytest.raises(UniqueConflict, match="another transaction is submitting the key 'daily'"):
            report.submit()
        after = lock_timeout()

    assert watch.seconds < LONG_S
    assert after == "25s"
    assert Queue.objects.filter(name="mine").exists()
    somebody.rollback()
    assert Job.objects.filter(pk=report.submit().id).exists()
    assert lock_timeout() == "0"


def test_a_callers_limit_comes_back_after_a_submit(report: JobType) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '250ms'")
        report.submit()

        assert lock_timeout() == "250ms"


def test_a_submit_over_http_is_told_to_come_again(somebody: psycopg.Connection, report: JobType) -> None:
    hold_key(somebody)

    answer = post(bearer("operator"), "/jobs", {"type": "lock.report"}, Idempotency_Key="k")

    assert answer.status_code == 409
    assert problem(answer)["type"] == "/problems/unique-in-progress"
    assert answer.headers["Retry-After"]


def test_what_people_do_to_a_row_that_is_held_is_refused_in_time(
    somebody: psycopg.Connection, report: JobType
) -> None:
    waiting = report.submit().id
    operate.pause("default", by="ana")
    somebody.execute("SELECT 1 FROM esteira_job FOR UPDATE")
    somebody.execute("SELECT 1 FROM esteira_queue FOR UPDATE")
    watch = Stopwatch()
    doors: list[Callable[[], object]] = [
        lambda: operate.cancel(waiting, by="ana"),
        lambda: operate.retry(waiting, by="ana"),
        lambda: operate.pause("default", by="ana"),
        lambda: operate.resume("default", by="ana"),
    ]

    refused: list[EsteiraError] = []
    for door in doors:
        with pytest.raises(Held) as refusal:
            door()
        refused.append(refusal.value)

    assert watch.seconds < LONG_S
    assert [error.status for error in refused] == [409] * 4
    assert lock_timeout() == "0"


def test_the_api_says_that_a_job_is_held(somebody: psycopg.Connection, report: JobType) -> None:
    declare_types()
    waiting = report.submit().id
    somebody.execute("SELECT 1 FROM esteira_job FOR UPDATE")

    answer = post(bearer("operator"), f"/jobs/{waiting}/cancel")

    assert answer.status_code == 409
    assert problem(answer)["type"] == "/problems/held"
