"""The metrics of `/metrics`. Each is cheap to measure: partial indexes serve it, and no backlog is counted.

`esteira_web.server.queued` counts the jobs in the queues. Counters are read from rows that only grow (`StatTotal`), so
neither retention nor a restart makes a counter fall.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

import esteira
from esteira.broker.batching import known_queues
from esteira.db import Db
from esteira.job_types.registry import registry
from esteira.keeper.hold import FAILING_S
from esteira.keeper.turns import STEPS
from esteira.liveness import SILENT_S
from esteira.states import ENDED
from esteira.stats import BOUNDS_S, BUCKETS
from esteira_web.server import health
from esteira_web.server.queued import MOST, PARTS, Limited, Queued

#: Adding up the sizes of all files reads their whole table, so that is done this often.
FILES_KEPT_S = 60.0
REDIS_PATIENCE_S = 0.5
WORKER_STATES = ("up", "silent", "gone")

Pair = tuple[str, str]

_KEEPER = """
SELECT extract(epoch FROM clock_timestamp() - k.last_sweep)::float8,
  ARRAY(SELECT DISTINCT jsonb_object_keys(f.value->'steps') FROM jsonb_each(k.failing) AS f
        WHERE (f.value->>'at')::timestamptz > clock_timestamp() - %s * interval '1 second'),
  (SELECT count(*) FROM esteira_schedule WHERE enabled AND origin <> 'gone' AND error <> '')
FROM esteira_keeper k
"""
_TOTALS = f"SELECT type, queue, state, n, sum_ms, {', '.join(BUCKETS)} FROM esteira_stattotal"
_WORKERS = """
SELECT CASE WHEN state = 'up' AND last_seen <= clock_timestamp() - %s * interval '1 second' THEN 'silent'
            ELSE state END, count(*), sum(slots)
FROM esteira_worker GROUP BY 1"""

# PostgreSQL reserves connections for superusers, and since version 16 for one more role: they are not counted as
# allowed. A role without rights cannot see the type of other roles' processes, but only those of clients have a user
# and a database.
_CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL
          AND coalesce(backend_type, 'client backend') = 'client backend'),
  sum(CASE WHEN name = 'max_connections' THEN setting::int ELSE -setting::int END) FROM pg_settings
WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"""
_BACKUPS = """
SELECT step, extract(epoch FROM clock_timestamp() - succeeded_at)::float8,
  coalesce(failed_at > coalesce(succeeded_at, '-infinity'), false)
FROM esteira_backup ORDER BY step"""


class Measures(Collector):
    """Queries the database at each collection; raises the driver's errors."""

    def __init__(self, core: Db) -> None:
        self._core = core
        self._limited = Limited(core)
        self._queued, self._files = Queued(self._limited), _Files(self._limited)

    def describe(self) -> Iterable[Metric]:
        """Announce no names: no other collector is registered beside this one."""
        return []

    def collect(self) -> Iterator[Metric]:
        pinged = health.REDIS.begin()
        yield InfoMetricFamily(
            "esteira_build", "The release of the web process that answers.", {"version": esteira.__version__}
        )
        yield from self._queues()
        yield from self._totals()
        yield from self._workers()
        yield from self._keeper()
        yield from self._connections()
        yield from self._backups()
        yield from self._files.collect()
        yield self._not_measured()
        try:
            redis_up = pinged.result(REDIS_PATIENCE_S) == "pass"
        except NotInTime:
            redis_up = False
        yield GaugeMetricFamily("esteira_redis_up", "Whether Redis answers to web.", float(redis_up))

    def _queues(self) -> Iterator[Metric]:
        found = self._queued.count()
        paused = {
            row[0] for row in self._core.fetch("SELECT name FROM esteira_queue WHERE paused_at IS NOT NULL")
        }
        queues = sorted({*known_queues(), *paused, *found.names()})
        waiting = (
            f"Jobs that are due and wait for a worker; {MOST} means {MOST} or more. Of the jobs that have a hint in"
            f" Redis, only the oldest {MOST} of all queues are counted."
        )
        for name, (numbers, text) in {
            "esteira_jobs_waiting": (found.waiting, waiting),
            "esteira_jobs_scheduled": (
                found.later,
                f"Jobs that start later, next tries included; {MOST} means {MOST} or more.",
            ),
            "esteira_jobs_running": (
                found.running,
                f"Jobs that workers run; of all queues, the {MOST} claimed first are counted.",
            ),
            "esteira_oldest_due_seconds": (
                found.oldest_s,
                "Seconds since the job that has waited longest became due; 0 if no due job waits.",
            ),
        }.items():
            if numbers is not None:
                yield _by_queue(name, text, {queue: numbers.get(queue, 0) for queue in queues})
        yield _by_queue(
            "esteira_queue_paused",
            "1 while the queue is paused.",
            {queue: queue in paused for queue in queues},
        )

    def _totals(self) -> Iterator[Metric]:
        """Begin every series of a known type at 0: Prometheus sees no increase if a series first appears as 1."""
        counts: dict[tuple[str, str, str], int] = {}
        times: dict[Pair, list[int]] = defaultdict(lambda: [0] * len(BUCKETS))
        sums: dict[Pair, float] = defaultdict(float)
        for type, queue, state, n, sum_ms, *buckets in self._core.fetch(_TOTALS):
            counts[type, queue, state] = n
            sums[type, queue] += sum_ms / 1000
            times[type, queue] = [a + b for a, b in zip(times[type, queue], buckets, strict=True)]
        pairs = sorted({*times, *((job_type.name, job_type.queue) for job_type in registry.all())})
        finished = CounterMetricFamily(
            "esteira_jobs_finished",
            "Jobs that ended, by their end state; without those that were cancelled while they waited.",
            labels=["type", "queue", "state"],
        )
        retried = CounterMetricFamily(
            "esteira_jobs_retried", "Attempts that failed and are tried again.", labels=["type", "queue"]
        )
        seconds = HistogramMetricFamily(
            "esteira_job_run_seconds",
            "How long attempts ran, for every outcome; without attempts whose process was lost.",
            labels=["type", "queue"],
        )
        for pair in pairs:
            for state in sorted(ENDED):
                finished.add_metric([*pair, state], counts.get((*pair, state), 0))
            retried.add_metric(list(pair), counts.get((*pair, "retried"), 0))
            seconds.add_metric(list(pair), _cumulative(times[pair]), sums[pair])
        yield from (finished, retried, seconds)

    def _workers(self) -> Iterator[Metric]:
        found = {state: (number, slots) for state, number, slots in self._core.fetch(_WORKERS, [SILENT_S])}
        workers = GaugeMetricFamily(
            "esteira_workers",
            f"Workers: up, silent for more than {SILENT_S:g} s, or gone: stopped cleanly within the last day.",
            labels=["state"],
        )
        for state in sorted({*WORKER_STATES, *found}):
            workers.add_metric([state], found.get(state, (0, 0))[0])
        yield workers
        slots = found.get("up", (0, 0))[1]
        yield GaugeMetricFamily(
            "esteira_worker_slots", "Jobs that all workers that are up can run at a time.", slots
        )

    def _keeper(self) -> Iterator[Metric]:
        rows = self._core.fetch(_KEEPER, [FAILING_S])
        age_s, failing, schedules = rows[0] if rows else (None, [], 0)
        text = "Seconds since all steps of a turn of the keeper (in beat) succeeded; +Inf if they never did."
        age_s = float("inf") if age_s is None else age_s
        yield GaugeMetricFamily("esteira_keeper_last_sweep_seconds", text, age_s)
        steps = GaugeMetricFamily(
            "esteira_keeper_step_failing", "1 while this step of a keeper's turn fails.", labels=["step"]
        )
        for step in sorted({*STEPS, *failing}):
            steps.add_metric([step], float(step in failing))
        yield steps
        yield GaugeMetricFamily(
            "esteira_schedules_failing",
            "Schedules whose ticks cannot be written, or whose parameters are refused.",
            schedules,
        )

    def _connections(self) -> Iterator[Metric]:
        ((used, most),) = self._core.fetch(_CONNECTIONS)
        yield GaugeMetricFamily(
            "esteira_database_connections",
            "Open connections of all clients to the PostgreSQL server.",
            used,
        )
        yield GaugeMetricFamily(
            "esteira_database_connections_limit",
            "Connections that the PostgreSQL server allows, without the reserved ones.",
            most,
        )

    def _backups(self) -> Iterator[Metric]:
        """Begin with the first backup by a timer: web does not know whether backups are planned."""
        age = GaugeMetricFamily(
            "esteira_backup_age_seconds",
            "Seconds since this step of a backup (dump, upload) succeeded; +Inf if it never did.",
            labels=["step"],
        )
        failing = GaugeMetricFamily(
            "esteira_backup_failing", "1 if the last run of this step of a backup failed.", labels=["step"]
        )
        for step, age_s, failed in self._core.fetch(_BACKUPS):
            age.add_metric([step], float("inf") if age_s is None else age_s)
            failing.add_metric([step], float(failed))
        yield from (age, failing)

    def _not_measured(self) -> Metric:
        text = "1 while this part of the page takes too long to measure; its metrics are then left out."
        family = GaugeMetricFamily("esteira_not_measured", text, labels=["part"])
        for part in PARTS:
            family.add_metric([part], float(part in self._limited.left_out))
        return family


class _Files:
    """The bytes of all files, read once a minute; left out while adding up their sizes takes too long."""

    def __init__(self, limited: Limited) -> None:
        self._limited = limited
        self._bytes: int | None = None
        self._asked = float("-inf")

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._asked > FILES_KEPT_S:
            # Only this statement reads a whole table: its rows are small, and an index would be slower.
            rows = self._limited.fetch(
                "files", "SELECT coalesce(sum(size), 0) FROM esteira_file", seqscan="on"
            )
            self._bytes = int(rows[0][0]) if rows else None
            self._asked = time.monotonic()
        if self._bytes is not None:
            text = "Bytes of all uploads and results, at most a minute old; FILES_MAX_TOTAL is their limit."
            yield GaugeMetricFamily("esteira_files_bytes", text, self._bytes)


def _by_queue(name: str, text: str, numbers: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["queue"])
    for queue, number in numbers.items():
        family.add_metric([queue], float(number))
    return family


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    """Return buckets as Prometheus counts: each includes all smaller ones."""
    bounds = [*(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(buckets)), strict=True))
