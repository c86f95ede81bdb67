"""An old snapshot while many jobs ran: indexes full of entries that VACUUM may not remove, and their cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings

from esteira.db import PrivateConnection, Row
from tests.support.jobs import TYPE
from tests.support.plans import generic_plan

_RAN = (
    """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, expires_at,
         run_at)
       SELECT gen_random_uuid(), %(type)s, '{}', 'default', 6, 4, 2, 10, 600, clock_timestamp() + interval '1 hour',
         clock_timestamp() - %(over_s)s * (1 - i::float8 / %(n)s) * interval '1 second'
       FROM generate_series(1, %(n)s) AS i""",
    "UPDATE esteira_job SET published_at = CASE %(over_s)s WHEN 0 THEN clock_timestamp() ELSE run_at END WHERE state = 'queued'",
    """UPDATE esteira_job SET state = 'running', attempt = 1, worker = 'w1/gone', delivery = 'd', claimed_at = clock_timestamp(),
         lease_until = clock_timestamp() + interval '1 hour' WHERE state = 'queued'""",
    """UPDATE esteira_job SET state = 'succeeded', worker = NULL, lease_until = NULL, published_at = NULL,
         finished_at = clock_timestamp() WHERE state = 'running'""",
)


@contextmanager
def old_snapshot() -> Iterator[None]:
    """Hold a snapshot of the database as it is now, as a backup does for hours."""
    with psycopg.connect(settings.DATABASE_URL) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM esteira_job")
        yield
        holder.rollback()


@contextmanager
def slow_writes(core: PrivateConnection) -> Iterator[None]:
    """Let each row of a job take 5 ms to write, as on a slow disk."""
    core.fetch(
        """CREATE FUNCTION slow_disk() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$"""
    )
    core.fetch(
        "CREATE TRIGGER slow_disk BEFORE UPDATE ON esteira_job FOR EACH ROW EXECUTE FUNCTION slow_disk()"
    )
    try:
        yield
    finally:
        core.fetch("DROP TRIGGER slow_disk ON esteira_job")
        core.fetch("DROP FUNCTION slow_disk()")


def ran(core: PrivateConnection, jobs: int, *, over_s: float = 0.0) -> None:
    """Let so many jobs go through all their states; those that became due, and were published, over so many seconds."""
    for statement in _RAN:
        core.fetch(statement, {"type": TYPE, "n": jobs, "over_s": over_s} if "%(" in statement else ())
    core.fetch("ANALYZE esteira_job")


class Counted(PrivateConnection):
    """A private connection that counts the blocks that its statements read, by executing each of them twice."""

    blocks = 0
    #: What the largest statement read.
    most = 0

    def fetch(self, sql: str, params: Any = ()) -> list[Row]:
        if "set_config" not in sql:
            self._count(sql, params)
        return super().fetch(sql, params)

    def _count(self, sql: str, params: Any) -> None:
        with self.transaction():
            plan = generic_plan(self, sql, params)
            blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            self.blocks, self.most = self.blocks + blocks, max(self.most, blocks)
            raise psycopg.Rollback
