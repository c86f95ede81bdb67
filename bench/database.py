"""What the benchmark asks the database: has it begun, is it over, when was the first claim."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from esteira import ids

# Each question is answered by a partial index, so asking often costs next to nothing.
_BEGUN = """SELECT EXISTS (SELECT 1 FROM esteira_job WHERE state = 'running')
              OR EXISTS (SELECT 1 FROM esteira_job WHERE finished_at IS NOT NULL)"""
_OPEN = """SELECT EXISTS (SELECT 1 FROM esteira_job WHERE state = 'running')
             OR EXISTS (SELECT 1 FROM esteira_job WHERE state = 'queued' AND published_at IS NOT NULL)
             OR EXISTS (SELECT 1 FROM esteira_job WHERE state = 'queued' AND published_at IS NULL),
           extract(epoch FROM clock_timestamp())"""
_ENDED = """SELECT count(*), extract(epoch FROM clock_timestamp()) FROM esteira_job
            WHERE finished_at IS NOT NULL"""
_FIRST_CLAIM = "SELECT extract(epoch FROM min(claimed_at)) FROM esteira_job"
_STATES = "SELECT state, count(*) FROM esteira_job GROUP BY 1"
_WAITING = f"""
INSERT INTO esteira_job (id, created_at, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s,
  run_at)
SELECT {ids.of_job("r.at", "gen_random_uuid()")}, r.at, %s, '{{}}', 'default', 6, 4, 2, 10, 600, r.at
FROM (SELECT clock_timestamp() AS at FROM generate_series(1, %s)) AS r"""
_SET_BY_US = "SELECT name, setting FROM pg_settings WHERE source IN ('command line', 'environment variable')"
_THROUGH = (
    """UPDATE esteira_job SET published_at = clock_timestamp(), expires_at = clock_timestamp() + interval '1 hour'
       WHERE state = 'queued'""",
    """UPDATE esteira_job SET state = 'running', attempt = 1, worker = 'bench/none', claimed_at = clock_timestamp(),
         lease_until = clock_timestamp() + interval '1 hour' WHERE state = 'queued'""",
    """UPDATE esteira_job SET state = 'succeeded', worker = NULL, lease_until = NULL, published_at = NULL,
         finished_at = clock_timestamp() WHERE state = 'running'""",
)


@dataclass(frozen=True)
class Ended:
    """How many jobs had ended at which moment of the database's clock, in seconds."""

    jobs: int
    at: float


class Database:
    """The benchmark's own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET enable_seqscan = off")

    def close(self) -> None:
        self._connection.close()

    def settings(self) -> dict[str, str]:
        """Return the settings that this server was started with, beside those that initdb wrote."""
        return dict(self._connection.execute(_SET_BY_US).fetchall())

    def empty(self) -> None:
        """Forget all jobs and whatever the planner had learnt of them; run times stay known."""
        self._connection.execute("TRUNCATE esteira_job CASCADE")
        self._connection.execute("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")

    def begun(self) -> bool:
        return bool(self._one(_BEGUN)[0])

    def open(self) -> bool:
        return bool(self._one(_OPEN)[0])

    def all_ended(self, jobs: int) -> Ended | None:
        """Return when no job is open any more; RuntimeError if not all of them succeeded."""
        still_open, now = self._one(_OPEN)
        if still_open:
            return None
        states = dict(self._connection.execute(_STATES).fetchall())
        if states != {"succeeded": jobs}:
            raise RuntimeError(f"{jobs} jobs should have succeeded, but it is {states}")
        return Ended(jobs, float(now))

    def some_ended(self, jobs: int) -> Ended | None:
        """Return once so many have ended; counting them is dear, so this pauses."""
        time.sleep(0.2)
        ended, now = self._one(_ENDED)
        return Ended(ended, float(now)) if ended >= jobs else None

    def first_claim(self) -> float:
        return float(self._one(_FIRST_CLAIM)[0])

    def workers_up(self) -> int:
        return int(self._one("SELECT count(*) FROM esteira_worker WHERE state = 'up'")[0])

    def forget_workers(self) -> None:
        self._connection.execute("DELETE FROM esteira_worker")

    def measured(self, type: str) -> int:
        """Return how many ends of a type the statistics have counted."""
        row = self._one("SELECT coalesce(sum(n), 0) FROM esteira_stat WHERE type = %s", type)
        return int(row[0])

    def announce_worker(self, type: str) -> None:
        """Pretend that a worker lives, so that a keeper has somebody to publish for."""
        self._connection.execute(
            """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state)
               VALUES ('bench', 'none', 'bench', 0, '["default"]', jsonb_build_array(%s::text), 2, 'up')""",
            [type],
        )

    def keep_worker(self) -> None:
        self._connection.execute("UPDATE esteira_worker SET last_seen = clock_timestamp()")

    def published(self) -> int:
        row = self._one(
            "SELECT count(*) FROM esteira_job WHERE state = 'queued' AND published_at IS NOT NULL"
        )
        return int(row[0])

    def fill(self, type: str, jobs: int) -> None:
        """Put waiting jobs there without submitting them."""
        self._connection.execute(_WAITING, [type, jobs])

    @contextmanager
    def old_snapshot(self) -> Iterator[None]:
        """Let somebody hold a snapshot of now, as a backup does: VACUUM may remove nothing that ends from here on."""
        with psycopg.connect(self._url) as holder:
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            holder.execute("SELECT count(*) FROM esteira_worker")
            yield

    @contextmanager
    def without_vacuum(self) -> Iterator[None]:
        """Keep autovacuum from the jobs, as while it is busy with other tables."""
        self._connection.execute("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
        try:
            yield
        finally:
            self._connection.execute("ALTER TABLE esteira_job RESET (autovacuum_enabled)")

    def run_through(self, type: str, jobs: int) -> None:
        """Let so many jobs that can expire go through all their states without running them."""
        self.fill(type, jobs)
        for statement in _THROUGH:
            self._connection.execute(statement)

    def _one(self, sql: str, *params: object) -> tuple:
        row = self._connection.execute(sql, params).fetchone()
        assert row is not None
        return row
