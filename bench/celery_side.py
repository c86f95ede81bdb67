"""Plain Celery's half of a round, on the same Redis (another database of it): nothing is recorded anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from bench.amounts import Amounts
from bench.parts import Machine, Meter, Part, celery, until
from bench.plain_celery import QUEUE, app, noop, one_ms, probe
from bench.probes import Figures, latencies, paced, rate


class CelerySide:
    """Starts a plain worker when it is wanted, and measures."""

    def __init__(self, machine: Machine, amounts: Amounts, concurrency: int) -> None:
        self._machine, self._amounts = machine, amounts
        self._url = machine.valkey.url.removesuffix("/0") + "/1"
        self._command = celery("-A", "bench.plain_celery", "worker", "-c", str(concurrency), "-l", "warning")
        self._redis = redis.Redis.from_url(self._url)
        app.conf.update(broker_url=self._url)

    def round(self) -> Figures:
        """Measure everything of a round; figures by name. The last one needs no worker."""
        with self._running() as worker:
            found: Figures = {**latencies(self._machine.probes, probe.delay, self._amounts.probes)}
            found |= self._backlog(worker, "no-op", noop, self._amounts.plain)
            found |= self._backlog(worker, "1 ms", one_ms, self._amounts.plain_ms)
        self._redis.flushdb()
        return {**found, "delay": rate(noop.delay, self._amounts.calls)}

    def paced(self) -> Figures:
        """Measure the latency at a fixed rate."""
        with self._running():
            return paced(self._machine.probes, probe.delay, self._amounts.paced)

    @contextmanager
    def _running(self) -> Iterator[Part]:
        self._redis.flushdb()
        # Without Django Celery does not look after its connections before and after each task.
        env = {"REDIS_URL": self._url, "DJANGO_SETTINGS_MODULE": ""}
        worker = Part("plain", self._command, self._machine.home, env)
        try:
            until(lambda: worker.alive() and app.control.ping(timeout=0.3), "the plain worker answers")
            yield worker
        finally:
            (worker.kill if self._amounts.hurry else worker.stop)()

    def _backlog(self, worker: Part, name: str, task: object, jobs: int) -> Figures:
        """A backlog laid before a living worker that is held still meanwhile, as on the other side."""
        until(lambda: self._left() == 0, "Redis is empty")
        worker.freeze()
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for _ in range(jobs):
                task.apply_async(producer=producer)  # type: ignore[attr-defined]
        meter = Meter({"worker": [worker.process], **self._machine.servers()})
        began = time.monotonic()
        worker.thaw()
        until(lambda: self._left() == 0, f"{name}: all tasks are taken", timeout=120, every=0.01)
        rate = jobs / (time.monotonic() - began)
        return {name: rate, **{f"{name}: {part}": micros for part, micros in meter.micros_per(jobs).items()}}

    def _left(self) -> int:
        """Count what waits or is not acknowledged; a task is acknowledged when it begins."""
        return int(self._redis.llen(QUEUE)) + int(self._redis.hlen("unacked"))
