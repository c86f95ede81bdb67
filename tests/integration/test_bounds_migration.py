"""A database of the release before may hold what nobody can read: migrating mends it, and forbids it from then on."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from tests.integration.test_migration_lock import finished, start
from tests.support.servers import SuiteServers

JOB = """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, run_at, expires_at)
VALUES (gen_random_uuid(), 't', '{}', 'default', 6, %s, 2, %s, 60, %s, %s)"""
SCHEDULE = """INSERT INTO esteira_schedule
  (name, type, params, cron, tz, every_s, overlap, missed, grace_s, enabled, origin)
VALUES (%s, 't', '{}', '', 'UTC', %s, 'allow', 'once', %s, true, 'database')"""


@pytest.fixture
def address(servers: SuiteServers) -> Iterator[str]:
    name = f"bounds_{uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield servers.postgres.url.rsplit("/", 1)[0] + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.slow
def test_rows_of_the_release_before_are_mended(address: str) -> None:
    finished(start("manage.py", "migrate", "esteira", "0003", address=address))
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(JOB, [4, 10, "0044-03-15 BC", "infinity"])
        db.execute(JOB, [0, 1e9, "12000-01-01Z", None])
        db.execute(JOB, [3, 5, "2026-01-01Z", None])
        db.execute("UPDATE esteira_job SET progress_done = 'NaN', progress_total = 5 WHERE max_failures = 3")
        db.execute(SCHEDULE, ["odd", 3e11, 1e12])
        db.execute(SCHEDULE, ["sound", 60, 60])

        finished(start("manage.py", "migrate", "esteira", "0004", address=address))
        # Cut off behind the constraints, and run once more.
        db.execute("DELETE FROM django_migrations WHERE app = 'esteira' AND name = '0004_bounds'")
        finished(start("manage.py", "migrate", address=address))

        jobs = db.execute(
            """SELECT max_failures, lease_s, run_at::text, expires_at::text, progress_done, progress_total
               FROM esteira_job ORDER BY run_at"""
        ).fetchall()
        schedules = db.execute("SELECT name, enabled, every_s FROM esteira_schedule ORDER BY name").fetchall()
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute(JOB, [4, 10, "infinity", None])
        [(validated,)] = db.execute(
            "SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'c'"
        ).fetchall()

    assert [row[0:2] for row in jobs] == [(4, 10), (3, 5), (1, 86400)]
    assert [row[2][:10] for row in jobs] == ["1970-01-01", "2026-01-01", "2199-12-31"]
    assert [row[3] and row[3][:10] for row in jobs] == ["2199-12-31", None, None]
    assert jobs[1][4:] == (None, 5)
    assert schedules == [("odd", False, 316224000), ("sound", True, 60)]
    assert validated
