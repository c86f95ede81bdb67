"""What `/metrics` measures, and how each number is had cheaply: by partial indexes, never by counting a backlog.

Waiting jobs are counted up to 10,000 a queue. Waiting rows are found by the index that feeds Redis: from each kind of
row (queue, priority, type) to the next, then one index range each, in which what is due comes first. Totals are read
from rows that only grow (`StatTotal`): neither retention nor a restart makes a counter fall.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from itertools import accumulate

import psycopg
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

import esteira
from esteira.db import Db
from esteira.depth import known_queues
from esteira.hold import FAILING_S
from esteira.identity import SILENT_S
from esteira.registry import registry
from esteira.states import ENDED
from esteira.stats import BOUNDS_S
from esteira.turns import STEPS
from web import health

#: So many waiting jobs are counted in one queue; more are told as this many.
MOST = 10_000
#: Adding up the sizes of all files reads their whole table, so that is done this often.
FILES_KEPT_S = 60.0
REDIS_PATIENCE_S = 0.5
WORKER_STATES = ("up", "silent", "gone")

Pair = tuple[str, str]

# The clock is read once, because only a value that stands still can be the end of an index range.
_UNFED = f"""
WITH RECURSIVE clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
kinds AS (
  (SELECT j.queue, j.priority, j.type FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NULL
   ORDER BY j.queue, j.priority, j.type LIMIT 1)
  UNION ALL
  SELECT next.queue, next.priority, next.type FROM kinds k CROSS JOIN LATERAL (
    SELECT j.queue, j.priority, j.type FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NULL
      AND (j.queue, j.priority, j.type) > (k.queue, k.priority, k.type)
    ORDER BY j.queue, j.priority, j.type LIMIT 1) AS next),
queues AS (SELECT DISTINCT queue FROM kinds)
SELECT q.queue,
  (SELECT count(*) FROM (
     SELECT 1 FROM kinds k CROSS JOIN LATERAL (
       SELECT 1 FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NULL AND j.queue = k.queue
         AND j.priority = k.priority AND j.type = k.type AND j.run_at <= (SELECT now FROM clock)
       LIMIT {MOST}) AS due
     WHERE k.queue = q.queue LIMIT {MOST}) AS all_due),
  (SELECT count(*) FROM (
     SELECT 1 FROM kinds k CROSS JOIN LATERAL (
       SELECT 1 FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NULL AND j.queue = k.queue
         AND j.priority = k.priority AND j.type = k.type AND j.run_at > (SELECT now FROM clock)
       LIMIT {MOST}) AS later
     WHERE k.queue = q.queue LIMIT {MOST}) AS all_later),
  (SELECT extract(epoch FROM (SELECT now FROM clock) - min(first.run_at))::float8 FROM kinds k CROSS JOIN LATERAL (
     SELECT j.run_at FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NULL AND j.queue = k.queue
       AND j.priority = k.priority AND j.type = k.type
     ORDER BY j.run_at, j.id LIMIT 1) AS first
   WHERE k.queue = q.queue)
FROM queues q"""

_FED = f"""
SELECT f.queue, count(*), extract(epoch FROM clock_timestamp() - min(f.run_at))::float8 FROM (
  SELECT j.queue, j.run_at FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NOT NULL
  ORDER BY j.published_at, j.id LIMIT {MOST}) AS f
GROUP BY f.queue"""

_RUNNING = f"""
SELECT r.queue, count(*) FROM (
  SELECT j.queue FROM esteira_job j WHERE j.state = 'running' ORDER BY j.id LIMIT {MOST}) AS r
GROUP BY r.queue"""

_KEEPER = """
SELECT extract(epoch FROM clock_timestamp() - k.last_sweep)::float8,
  ARRAY(SELECT DISTINCT jsonb_object_keys(f.value->'steps') FROM jsonb_each(k.failing) AS f
        WHERE (f.value->>'at')::timestamptz > clock_timestamp() - %s * interval '1 second'),
  (SELECT count(*) FROM esteira_schedule WHERE enabled AND origin <> 'gone' AND error <> '')
FROM esteira_keeper k
"""
_WORKERS = """
SELECT CASE WHEN state = 'up' AND last_seen <= clock_timestamp() - %s * interval '1 second' THEN 'silent'
            ELSE state END, count(*), sum(slots)
FROM esteira_worker GROUP BY 1"""


@dataclass(kw_only=True)
class InQueues:
    """What is in each queue now; a queue that is not named has nothing."""

    waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    later: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    oldest_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Measures(Collector):
    """Asks the database once for each collection; raises the driver's errors."""

    def __init__(self, core: Db) -> None:
        self._core = core
        self._files = _Files(core)

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: nothing else is registered beside this."""
        return []

    def collect(self) -> Iterator[Metric]:
        pinged = health.REDIS.begin()
        yield InfoMetricFamily("esteira_build", "The release that answers.", {"version": esteira.__version__})
        yield from self._queues()
        yield from self._totals()
        yield from self._workers()
        yield from self._keeper()
        yield from self._files.collect()
        try:
            redis_up = pinged.result(REDIS_PATIENCE_S) == "pass"
        except NotInTime:
            redis_up = False
        yield GaugeMetricFamily("esteira_redis_up", "Whether Redis answers to web.", float(redis_up))

    def _queues(self) -> Iterator[Metric]:
        found = self._in_queues()
        paused = {
            row[0] for row in self._core.fetch("SELECT name FROM esteira_queue WHERE paused_at IS NOT NULL")
        }
        queues = sorted({*known_queues(), *paused, *found.waiting, *found.later, *found.running})
        hinted = f"of those that have a hint in Redis, the oldest {MOST} of all queues"
        yield _by_queue(
            "esteira_jobs_waiting",
            f"Jobs that are due and wait for a worker; {MOST} means as many or more. Counted are, {hinted}.",
            {queue: found.waiting[queue] for queue in queues},
        )
        yield _by_queue(
            "esteira_jobs_scheduled",
            f"Jobs that wait for their moment, a next try included; {MOST} means as many or more.",
            {queue: found.later[queue] for queue in queues},
        )
        yield _by_queue(
            "esteira_jobs_running",
            "Jobs that a worker holds.",
            {queue: found.running[queue] for queue in queues},
        )
        yield _by_queue(
            "esteira_oldest_due_seconds",
            "How long the job that waits longest could have run already; 0 if none waits.",
            {queue: found.oldest_s[queue] for queue in queues},
        )
        yield _by_queue(
            "esteira_queue_paused",
            "1 while nothing of the queue is handed out.",
            {queue: queue in paused for queue in queues},
        )

    def _in_queues(self) -> InQueues:
        found = InQueues()
        with self._core.transaction():
            # A bitmap reads the whole range of an index before it gives the first row, and a range may hold millions.
            self._core.fetch("SELECT set_config('enable_bitmapscan', 'off', true)")
            unfed, fed, running = (self._core.fetch(sql) for sql in (_UNFED, _FED, _RUNNING))
        for queue, due, later, oldest_s in unfed:
            found.waiting[queue], found.later[queue], found.oldest_s[queue] = due, later, max(0.0, oldest_s)
        for queue, due, oldest_s in fed:
            found.waiting[queue] = min(MOST, found.waiting[queue] + due)
            found.oldest_s[queue] = max(found.oldest_s[queue], oldest_s)
        found.running.update(dict(running))
        return found

    def _totals(self) -> Iterator[Metric]:
        """Begin every series of a known type at 0: what first appears as 1 is no increase to Prometheus."""
        counts: dict[tuple[str, str, str], int] = {}
        times: dict[Pair, list[int]] = {(t.name, t.queue): [0] * (len(BOUNDS_S) + 1) for t in registry.all()}
        sums: dict[Pair, float] = defaultdict(float)
        rows = self._core.fetch("SELECT type, queue, state, n, sum_ms, buckets FROM esteira_stattotal")
        for type, queue, state, n, sum_ms, buckets in rows:
            counts[type, queue, state] = n
            sums[type, queue] += sum_ms / 1000
            before = times.get((type, queue), [0] * len(buckets))
            times[type, queue] = [a + b for a, b in zip(before, buckets, strict=True)]
        pairs = sorted(times)
        finished = CounterMetricFamily(
            "esteira_jobs_finished",
            "Jobs that ended, by their end state; without those that were cancelled before they ran.",
            labels=["type", "queue", "state"],
        )
        retried = CounterMetricFamily(
            "esteira_jobs_retried", "Attempts that failed and are tried again.", labels=["type", "queue"]
        )
        seconds = HistogramMetricFamily(
            "esteira_job_run_seconds",
            "How long attempts ran, however they ended; without those whose process was lost.",
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
            f"Workers: up, silent for more than {SILENT_S:g} s, or gone in good order within the last day.",
            labels=["state"],
        )
        for state in sorted({*WORKER_STATES, *found}):
            workers.add_metric([state], found.get(state, (0, 0))[0])
        yield workers
        slots = found.get("up", (0, 0))[1]
        yield GaugeMetricFamily(
            "esteira_worker_slots", "Jobs that workers which are up can run at a time.", slots
        )

    def _keeper(self) -> Iterator[Metric]:
        rows = self._core.fetch(_KEEPER, [FAILING_S])
        age_s, failing, schedules = rows[0] if rows else (None, [], 0)
        told = (
            "Seconds since every step of a keeper's (beat's) turn went through; +Inf if that never happened."
        )
        age_s = float("inf") if age_s is None else age_s
        yield GaugeMetricFamily("esteira_keeper_last_sweep_seconds", told, age_s)
        steps = GaugeMetricFamily(
            "esteira_keeper_step_failing", "1 while this step of a keeper's turn fails.", labels=["step"]
        )
        for step in sorted({*STEPS, *failing}):
            steps.add_metric([step], float(step in failing))
        yield steps
        yield GaugeMetricFamily(
            "esteira_schedules_failing",
            "Schedules that cannot be kept, or whose parameters are refused.",
            schedules,
        )


class _Files:
    """The bytes of all files, asked once a minute; left out while there are too many to add up in time."""

    def __init__(self, core: Db) -> None:
        self._core = core
        self._bytes: int | None = None
        self._asked = float("-inf")

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._asked > FILES_KEPT_S:
            self._bytes = self._ask()
            self._asked = time.monotonic()
        if self._bytes is not None:
            told = "Bytes of all uploads and results, at most a minute old; FILES_MAX_TOTAL is their limit."
            yield GaugeMetricFamily("esteira_files_bytes", told, self._bytes)

    def _ask(self) -> int | None:
        try:
            with self._core.transaction():
                # The one statement that does read a whole table, of small rows; row by row through an index is slower.
                self._core.fetch("SELECT set_config('enable_seqscan', 'on', true)")
                return int(self._core.fetch("SELECT coalesce(sum(size), 0) FROM esteira_file")[0][0])
        except psycopg.errors.QueryCanceled:
            return None


def _by_queue(name: str, told: str, numbers: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=["queue"])
    for queue, number in numbers.items():
        family.add_metric([queue], float(number))
    return family


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: each counts what its bound and all smaller ones hold."""
    bounds = [*(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(buckets)), strict=True))
