"""Esteira's half of a round: its own worker and beat, its own API, with the settings that everybody gets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat

from bench import bare
from bench.amounts import Amounts
from bench.bench_jobs import timed
from bench.database import Database, Ended
from bench.parts import Machine, Meter, Part, until
from bench.probes import Figures, latencies
from esteira.broker.batching import CACHE_S
from esteira.job_types.registry import JobType
from esteira.stats import MEASURED


class EsteiraSide:
    """Starts Esteira's processes when they are wanted, and measures."""

    def __init__(self, machine: Machine, database: Database, amounts: Amounts, concurrency: int) -> None:
        self._machine, self._db, self._amounts, self._concurrency = machine, database, amounts, concurrency
        self._beat: Part | None = None
        self._worker: Part | None = None

    def warm_up(self) -> None:
        """Let run times become known, as they are in a system that has run for a minute."""
        if not self._amounts.warm:
            return
        with self.running():
            for kind in (timed.noop, timed.one_ms, timed.probe):
                params = {"number": 0} if kind is timed.probe else {}
                kind.submit_many(repeat(params, self._amounts.warm))
                until(partial(self._is_measured, kind), f"{kind.name} is measured")
            self._settle()
        time.sleep(CACHE_S)  # this process, too, reads the run times every 10 s

    def _is_measured(self, kind: JobType) -> bool:
        return self._db.measured(kind.name) >= MEASURED

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have a worker and a beat around, and neither jobs nor hints of before."""
        self._db.empty()
        self._machine.empty_redis()
        self._beat = Part("beat", ["-A", "project", "beat"], self._machine.home)
        try:
            self._start_worker()
            timed.noop.submit()
            until(self._db.begun, "the worker takes jobs")
            yield
            self._beat.alive()
        finally:
            self._stop_worker()
            self._beat.stop()

    def round(self) -> Figures:
        """Measure everything of a round; figures by name."""
        with self.running():
            found = self._latency()
            found |= self._short("no-op, short backlog", timed.noop, self._amounts.short)
            found |= self._fresh("no-op, fresh rows", timed.noop, self._amounts.fresh)
            alone = [self._bare()]
            found |= self._short("1 ms, short backlog", timed.one_ms, self._amounts.short_ms)
            alone.append(self._bare())
            found |= self._fresh("1 ms, fresh rows", timed.one_ms, self._amounts.watched_ms)
            self._stop_worker()  # most of these rows still wait
            alone.append(self._bare())
            return {**found, "bare loop": statistics.mean(alone)}

    def unseen(self) -> Figures:
        """Run a backlog of a type that nobody has measured: its first jobs travel one by one."""
        with self.running():
            return self._short("no-op, type never seen", timed.unseen, self._amounts.unseen)

    def _bare(self) -> float:
        """Measure the bare loop, while Esteira has nothing to run."""
        return bare.rate(processes=self._concurrency, seconds=self._amounts.bare_s)

    def _latency(self) -> Figures:
        submit = timed.probe.submit
        return latencies(self._machine.probes, lambda number: submit(number=number), self._amounts.probes)

    def _short(self, name: str, kind: JobType, jobs: int) -> Figures:
        """A backlog laid before a living worker that is held still meanwhile."""
        self._settle()
        self._db.empty()
        assert self._worker is not None
        self._worker.freeze()
        kind.submit_many(repeat({}, jobs))
        meter = self._meter()
        self._worker.thaw()
        return self._timed(name, meter, lambda: self._db.all_ended(jobs))

    def _fresh(self, name: str, kind: JobType, watched: int) -> Figures:
        """Rows inserted while no worker is there, into a table that was never analysed."""
        self._settle()
        self._stop_worker()
        self._db.empty()
        jobs, began = self._amounts.fresh, time.monotonic()
        kind.submit_many(repeat({}, jobs))
        submitted = jobs / (time.monotonic() - began)
        self._start_worker()
        until(self._db.begun, "the first job is claimed", every=0.005)
        finish = self._db.all_ended if watched >= jobs else self._db.some_ended
        return {
            **self._timed(name, self._meter(), lambda: finish(min(jobs, watched))),
            "bulk submit": submitted,
        }

    def _timed(self, name: str, meter: Meter, finish: Callable[[], Ended | None]) -> Figures:
        """The clock runs from the first claim to the last end that is recorded."""
        ended = until(finish, f"{name}: the jobs have ended", timeout=180)
        cpu = {f"{name}: {part}": micros for part, micros in meter.micros_per(ended.jobs).items()}
        return {name: ended.jobs / (ended.at - self._db.first_claim()), **cpu}

    def _meter(self) -> Meter:
        parts = {part.name: part.process for part in (self._worker, self._beat) if part is not None}
        return Meter({**parts, **self._machine.servers()})

    def _settle(self) -> None:
        until(lambda: not self._db.open(), "no job waits or runs")

    def _start_worker(self) -> None:
        self._db.forget_workers()
        self._worker = Part("worker", ["-A", "project", "worker"], self._machine.home)
        until(lambda: self._worker and self._worker.alive() and self._db.worker_is_up(), "the worker is up")

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._worker = None
