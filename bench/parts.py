"""The processes of the benchmark: its own PostgreSQL and Valkey, workers and beat, and what CPU each of them used.

Everything listens on 127.0.0.1 and lives in a temporary folder; only processes started here are ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import redis

from bench import work
from project.local.embedded import Postgres, Valkey
from project.local.embedded_launch import Launch
from project.local.embedded_server import end_processes

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0
T = TypeVar("T")


def until(ask: Callable[[], T | None], what: str, *, timeout: float = PATIENCE_S, every: float = 0.02) -> T:
    """Return the first true answer; RuntimeError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout:g} s: {what}")
        time.sleep(every)
    return answer


class StockPostgres(Postgres):
    """PostgreSQL configured as initdb leaves it; only where it listens is set."""

    tuning: Mapping[str, str] = {}


class Machine:
    """A stock PostgreSQL and Valkey, for one run of the benchmark."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="esteira-bench-"))
        self.home.chmod(0o711)  # PostgreSQL refuses root and then runs as somebody who must get through
        self.postgres = StockPostgres(self.home / "postgres")
        self.valkey = Valkey(self.home / "redis")
        self.probes = self.home / "probes"

    def start(self) -> None:
        self.valkey.start()
        self.postgres.start()

    def stop(self) -> None:
        self.postgres.stop("immediate")
        self.valkey.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def empty_redis(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def servers(self) -> dict[str, list[psutil.Process]]:
        pids = {"PostgreSQL": self.postgres.pid, "Redis": self.valkey.pid}
        return {name: [psutil.Process(pid)] for name, pid in pids.items()}

    def settle_environment(self, concurrency: int) -> None:
        """Point this process and those it starts at these servers; everything else has Esteira's defaults."""
        ours = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "SECRET_KEY": "for-the-benchmark-only",
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "DATA_DIR": str(self.home / "data"),
            "RUN_DIR": str(self.home / "run"),
            "JOB_PACKAGES": "bench.bench_jobs",
            "CONCURRENCY": str(concurrency),
            "LOG_LEVEL": "WARNING",
            work.LOOPS: str(work.calibrate()),
            work.PROBES: str(self.probes),
        }
        for name in ("DATABASE_URL_FILE", "REDIS_URL_FILE", "SECRET_KEY_FILE"):
            os.environ.pop(name, None)
        os.environ.update(ours)


def celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", *arguments]


class Part:
    """One process with its offspring."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        logs: Path,
        env: Mapping[str, str] | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self.name, self.log = name, logs / f"{name}.log"
        launch = Launch(argv=command, env={**os.environ, **(env or {})}, cwd=ROOT)
        with self.log.open("wb") as log:
            self._popen = launch.popen(log, stdin=subprocess.PIPE if waits else subprocess.DEVNULL)
        self.process = psutil.Process(self._popen.pid)

    def go(self) -> None:
        """Let a process begin that was started with `waits`."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"go\n")
        self._popen.stdin.flush()

    def alive(self) -> bool:
        """Whether it runs; RuntimeError with its last words if it ended by itself."""
        if self._popen.poll() is not None:
            words = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{self.name} ended with {self._popen.returncode}:\n{words}")
        return True

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def freeze(self) -> None:
        """Stop it where it stands, so that a backlog can be laid before it."""
        for one in self.family():
            one.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for one in reversed(self.family()):
            one.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as an orderly shutdown would; by force if it does not listen."""
        family = self.family()
        self.thaw()
        with suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
            self._popen.send_signal(signal.SIGTERM)
            self._popen.wait(20)
        self._end(family)

    def kill(self) -> None:
        """End it at once."""
        self._end(self.family())

    def _end(self, family: list[psutil.Process]) -> None:
        end_processes(family, signal.SIGKILL, patience=10)
        self._popen.wait(10)
        if self._popen.stdin is not None:
            self._popen.stdin.close()


class Meter:
    """CPU seconds of process trees since it was made, by name; ended children count as well."""

    def __init__(self, trees: Mapping[str, Sequence[psutil.Process]]) -> None:
        self._trees = dict(trees)
        self._began = self._read()

    def micros_per(self, jobs: int) -> dict[str, float]:
        """Return the µs of CPU that each tree used for one job."""
        return {name: seconds * 1e6 / max(1, jobs) for name, seconds in self.seconds().items()}

    def seconds(self) -> dict[str, float]:
        """Return the seconds of CPU that each has used."""
        now = self._read()
        return {name: now[name] - self._began.get(name, 0.0) for name in now}

    def _read(self) -> dict[str, float]:
        used: dict[str, float] = {}
        for name, roots in self._trees.items():
            parents, children = sum(map(_seconds, roots)), sum(map(_seconds, _offspring(roots)))
            used[name] = parents + children
            if name == "worker" and children:
                used["worker's parent"] = parents
        return used


def _offspring(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            found += root.children(recursive=True)
    return found


def _seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return float(times.user + times.system + ended)
    return 0.0
