"""A peer's part of a round, on the benchmark's own servers: a database of its own in each, empty before each figure."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis

from bench import bare, work
from bench.amounts import SLICE, Amounts
from bench.parts import ROOT, Machine, Meter, Part, until
from bench.peers.known import Peer, Store
from bench.probes import WARM_UP, Figures

DATABASE, REDIS_DATABASE = "peer", "2"
LONGEST_S = 180


class PeerSide:
    """Builds a peer's program, starts it when it is wanted, and measures."""

    def __init__(self, peer: Peer, machine: Machine, amounts: Amounts, concurrency: int) -> None:
        self.peer, self.name = peer, peer.name
        self._machine, self._amounts, self._concurrency = machine, amounts, concurrency
        self._home = machine.home / "peers"
        self._home.mkdir(exist_ok=True)
        self._program = list(peer.build(self._home))
        self._env = {
            "DATABASE_URL": machine.postgres.url.rsplit("/", 1)[0] + f"/{DATABASE}",
            "REDIS_URL": machine.valkey.url.removesuffix("/0") + f"/{REDIS_DATABASE}",
            **peer.env,
        }
        if not peer.in_python:
            self._env[work.LOOPS] = str(self._ask("calibrate")["loops"])

    def round(self) -> Figures:
        """Measure everything of a round; figures by name."""
        with self._empty() as store:
            found = self._latency(store)
        found |= self._backlog("no-op", "noop", self.peer.jobs)
        alone = [self._bare()]
        found |= {**self._backlog("1 ms", "one_ms", self.peer.jobs_1ms), "bulk submit": found["bulk submit"]}
        alone.append(self._bare())
        rate = sum(alone) / len(alone)
        return {**found, "bare loop": rate, "1 ms / bare loop": found["1 ms"] / rate}

    def _latency(self, store: Store) -> Figures:
        """From just before a submit to the function's first line, two idle workers being there."""
        probes = self._amounts.probes + WARM_UP
        with self._workers() as workers:
            submitted = self._ask("submit", str(probes))["submitted"]
            seen = until(lambda: _probes(workers, probes), f"{self.name}: every probe has run")
        return {"latency ms": [(seen[n] - at) * 1000 for n, at in enumerate(submitted) if n >= WARM_UP]}

    def _backlog(self, name: str, kind: str, most: int) -> Figures:
        """Jobs are laid before workers that wait; the clock runs from the first start to the last end recorded."""
        jobs = min(most, self._amounts.most_for_a_peer)
        with self._empty() as store, self._workers(begin=False) as workers:
            laid = self._ask("enqueue", kind, str(jobs), str(SLICE))
            meter = Meter({"worker": [worker.process for worker in workers], **self._machine.servers()})
            for worker in workers:
                worker.go()
            until(
                lambda: all(worker.alive() for worker in workers) and not self.peer.open(store),
                f"{self.name}, {name}: the jobs have ended",
                timeout=LONGEST_S,
            )
            seconds = time.time() - min(
                line["first"] for worker in workers for line in _told(worker, "first")
            )
            ended, used = self.peer.ended(store), meter.micros_per(jobs)
        if ended != jobs:
            raise RuntimeError(f"{self.name}: {jobs} jobs should have succeeded, but {ended} have")
        cpu = {f"{name}: {part}": micros for part, micros in used.items()}
        return {name: jobs / seconds, "bulk submit": laid["jobs"] / laid["seconds"], **cpu}

    def _bare(self) -> float:
        """Measure the peer's own bare loop: the same 1 ms in its own language, without any queue."""
        if self.peer.in_python:
            return bare.rate(processes=self._concurrency, seconds=self._amounts.bare_s)
        with self._processes(["bare", str(int(self._amounts.bare_s * 1000))]) as loops:
            for loop in loops:
                loop.go()
            done = until(lambda: _all(loops, "calls"), f"{self.name}: the bare loop has ended")
        return sum(line["calls"] / line["seconds"] for line in done)

    @contextmanager
    def _empty(self) -> Iterator[Store]:
        """Make both databases anew, with the peer's tables in them."""
        with psycopg.connect(self._machine.postgres.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {DATABASE}")
        with redis.Redis.from_url(self._env["REDIS_URL"]) as client:
            client.flushdb()
        self._ask("setup")
        store = Store(self._env["DATABASE_URL"], self._env["REDIS_URL"])
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def _workers(self, *, begin: bool = True) -> Iterator[list[Part]]:
        with self._processes(["work"]) as workers:
            if begin:
                for worker in workers:
                    worker.go()
            yield workers

    @contextmanager
    def _processes(self, words: list[str]) -> Iterator[list[Part]]:
        """Start the peer's processes, each of which waits for go."""
        started: list[Part] = []
        try:
            for number in range(1, self.peer.processes + 1):
                name, command = f"{self.name} {number}", [*self._program, *words]
                started.append(Part(name, command, self._home, self._env, waits=True))
            until(lambda: _all(started, "ready"), f"{self.name}: {words[0]} is ready")
            yield started
        finally:
            for one in started:
                one.stop()

    def _ask(self, *words: str) -> dict[str, Any]:
        """Run one command of the program to its end; return the line that it prints."""
        command = [*self._program, *words]
        env = {**os.environ, **self._env}
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {words[0]} failed: {(done.stderr or done.stdout)[-1500:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def _told(part: Part, figure: str) -> list[dict[str, Any]]:
    """Return the lines with this figure that a process has printed so far, beside what a library logs."""
    lines = part.log.read_text(errors="replace").split("\n")[:-1]
    return [line for line in map(json.loads, filter(_is_json, lines)) if figure in line]


def _is_json(line: str) -> bool:
    return line.startswith('{"')


def _all(parts: list[Part], figure: str) -> list[dict[str, Any]] | None:
    """Return this figure of every process, once all have printed it; RuntimeError if one ended without it."""
    found = [told[0] for part in parts if (told := _told(part, figure)) or not part.alive()]
    return found if len(found) == len(parts) else None


def _probes(workers: list[Part], number: int) -> dict[int, float] | None:
    found = {line["probe"]: line["at"] for worker in workers for line in _told(worker, "probe")}
    return found if len(found) == number else None
