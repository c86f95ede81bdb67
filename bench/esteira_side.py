"""Esteira's half of a round: its own worker and beat, its own API, with the settings that everybody gets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat

import psutil

from bench import bare
from bench.amounts import SLICE, Amounts
from bench.bench_jobs import timed
from bench.database import Database, Ended
from bench.parts import Machine, Meter, Part, celery, until
from bench.probes import Figures, latencies, paced, rate
from esteira.broker.batching import CACHE_S
from esteira.job_types.registry import JobType
from esteira.stats import MEASURED


class EsteiraSide:
    """Starts Esteira's processes when they are wanted, and measures."""

    def __init__(self, machine: Machine, database: Database, amounts: Amounts, concurrency: int) -> None:
        self._machine, self._db, self._amounts, self._concurrency = machine, database, amounts, concurrency
        self._beat: Part | None = None
        self._workers: list[Part] = []
        self._shape = (0, 0)

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
    def running(self, *, workers: int = 1, concurrency: int | None = None) -> Iterator[None]:
        """Have workers and a beat around, and neither jobs nor hints of before."""
        shape = (workers, concurrency or self._concurrency)
        if self._workers and self._shape == shape:
            self._settle()
            self._db.empty()
        else:
            self.stop()
            self._start(*shape)
        yield
        if self._beat and self._beat.alive() and not self._amounts.hurry:
            self.stop()

    def stop(self) -> None:
        """Stop whatever runs."""
        self._stop_workers()
        if self._beat is not None:
            self._beat.stop()
        self._beat = None

    def _start(self, workers: int, concurrency: int) -> None:
        self._db.empty()
        self._machine.empty_redis()
        self._shape = (workers, concurrency)
        self._beat = Part("beat", celery("-A", "project", "beat"), self._machine.home)
        self._start_workers()
        timed.noop.submit()
        until(self._db.begun, "the worker takes jobs")

    def round(self) -> Figures:
        """Measure everything of a round; figures by name."""
        with self.running():
            found = self._latency()
            found |= self._short("no-op, short backlog", timed.noop, self._amounts.short)
            found |= self._fresh("no-op, fresh rows", timed.noop, self._amounts.fresh)
            alone = [self._bare()]
            found |= self._short("1 ms, short backlog", timed.one_ms, self._amounts.short_ms)
            alone.append(self._bare())
            found |= self._fresh("1 ms, fresh rows", timed.one_ms, self._amounts.watched_ms, SLICE)
            self._stop_workers()  # most of these rows still wait
            alone.append(self._bare())
            found |= self._single()
            bare_rate = statistics.mean(alone)
            ratio = found["1 ms, short backlog"] / bare_rate
            return {**found, "bare loop": bare_rate, "1 ms / bare loop": ratio}

    def unseen(self) -> Figures:
        """Run a backlog of a type that nobody has measured: its first jobs travel one by one."""
        with self.running():
            return self._short("no-op, type never seen", timed.unseen, self._amounts.unseen)

    def paced(self) -> Figures:
        """Measure the latency at a fixed rate."""
        with self.running():
            submit = timed.probe.submit
            return paced(self._machine.probes, lambda number: submit(number=number), self._amounts.paced)

    def scaled(self, workers: int) -> Figures:
        """Run a short backlog with so many workers of one process each."""
        name = f"no-op, {workers} {'worker' if workers == 1 else 'workers'} of one process"
        with self.running(workers=workers, concurrency=1):
            return {name: self._short(name, timed.noop, self._amounts.short)[name]}

    def trees(self) -> dict[str, list[psutil.Process]]:
        """Return the processes that run now, by the names of their parts."""
        beat = [self._beat.process] if self._beat else []
        return {
            "worker": [worker.process for worker in self._workers],
            "beat": beat,
            **self._machine.servers(),
        }

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
        for worker in self._workers:
            worker.freeze()
        kind.submit_many(repeat({}, jobs))
        meter = Meter(self.trees())
        for worker in self._workers:
            worker.thaw()
        return self._timed(name, meter, lambda: self._db.all_ended(jobs))

    def _fresh(self, name: str, kind: JobType, watched: int, size: int | None = None) -> Figures:
        """Rows inserted while no worker is there, into a table that was never analysed; `size` jobs a call, or all."""
        self._settle()
        self._stop_workers()
        self._db.empty()
        jobs, began = self._amounts.fresh, time.monotonic()
        for done in range(0, jobs, size or jobs):
            kind.submit_many(repeat({}, min(size or jobs, jobs - done)))
        submitted = jobs / (time.monotonic() - began)
        self._start_workers()
        until(self._db.begun, "the first job is claimed", every=0.005)
        finish = self._db.all_ended if watched >= jobs else self._db.some_ended
        return {
            **self._timed(name, Meter(self.trees()), lambda: finish(min(jobs, watched))),
            f"bulk submit, slices of {size}" if size else "bulk submit": submitted,
        }

    def _timed(self, name: str, meter: Meter, finish: Callable[[], Ended | None]) -> Figures:
        """The clock runs from the first claim to the last end that is recorded."""
        ended = until(finish, f"{name}: the jobs have ended", timeout=180)
        cpu = {f"{name}: {part}": micros for part, micros in meter.micros_per(ended.jobs).items()}
        return {name: ended.jobs / (ended.at - self._db.first_claim()), **cpu}

    def _single(self) -> Figures:
        """Single submits by one process, each with its commit and its hint, while no worker is there."""
        self._db.empty()
        self._machine.empty_redis()
        return {"single submit": rate(timed.noop.submit, self._amounts.calls)}

    def _settle(self) -> None:
        until(lambda: not self._db.open(), "no job waits or runs")

    def _start_workers(self) -> None:
        number, concurrency = self._shape
        self._db.forget_workers()
        command, env = celery("-A", "project", "worker"), {"CONCURRENCY": str(concurrency)}
        for each in range(1, number + 1):
            self._workers.append(Part(f"worker-{each}", command, self._machine.home, env))
        until(self._all_up, "the workers are up")

    def _all_up(self) -> bool:
        return all(worker.alive() for worker in self._workers) and self._db.workers_up() == len(self._workers)

    def _stop_workers(self) -> None:
        while self._workers:
            worker = self._workers.pop()
            (worker.kill if self._amounts.hurry else worker.stop)()
