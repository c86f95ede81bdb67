"""Real processes to break: each in a session of its own, its output in a file, ended by its id only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from project.local.embedded_launch import Launch
from project.local.embedded_server import end_processes, is_alive
from tests.support import forks
from tests.support.forks import ROOT
from tests.support.waiting import until


def gunicorn(*addresses: str) -> list[str]:
    """Return the words that start web as in production, at some addresses."""
    worker = "esteira_web.server.connections.Worker"
    bind = [word for address in addresses for word in ("--bind", address)]
    return ["gunicorn", "project.asgi", "-k", worker, "--no-control-socket", *bind]


class Process:
    """One process of ours with its offspring, in a session of its own; may be started again after its end."""

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.run_dir = logs.parent / "run" / name
        self.env = {**env, "RUN_DIR": str(self.run_dir)}
        self.arguments = [sys.executable, "-m", *arguments]
        self.popen: forks.Forked | subprocess.Popen[bytes] | None = None
        self.stopped = False
        self._seen: dict[int, psutil.Process] = {}
        self._began_at = 0

    def start(self) -> None:
        assert not self.alive(), f"{self.name} runs already"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        for sign in self.run_dir.glob("*.alive"):
            sign.unlink()
        with self.log.open("ab") as log:
            self._began_at = log.tell()
            self.popen = forks.run(self.arguments, self.env, self.log) or Launch(
                argv=self.arguments, env=self.env, cwd=ROOT
            ).popen(log)
        self.stopped = False

    @property
    def pid(self) -> int:
        assert self.popen is not None, f"{self.name} was not started"
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def touched(self, sign: str) -> bool:
        """Whether its loop has turned since it was started."""
        if not self.alive():
            raise AssertionError(f"{self.name} ended while starting:\n{self.last_words()}")
        return (self.run_dir / f"{sign}.alive").exists()

    def age_of(self, sign: str) -> float:
        """Return how many seconds ago its loop turned last."""
        return time.time() - (self.run_dir / f"{sign}.alive").stat().st_mtime

    def family(self) -> list[psutil.Process]:
        """Return the process and its offspring, those seen earlier and orphaned since included."""
        if self.popen is not None:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(self.pid)
                for one in [parent, *parent.children(recursive=True)]:
                    self._seen[one.pid] = one
        self._seen = {pid: one for pid, one in self._seen.items() if is_alive(one)}
        return list(self._seen.values())

    def children(self) -> list[psutil.Process]:
        return [one for one in self.family() if one.pid != self.pid]

    def signal_all(self, how: signal.Signals) -> None:
        """Signal the process and all its offspring at once, as a container's end would."""
        family = self.family()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(how)
        self.stopped = how == signal.SIGSTOP or (self.stopped and how != signal.SIGCONT)

    def signal(self, how: signal.Signals) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(how)

    def kill(self) -> None:
        """SIGKILL all of it, and wait until it is gone."""
        family = self.family()
        end_processes(family, signal.SIGKILL, patience=10)
        if self.popen is not None:
            self.popen.wait(10)

    def stop(self, timeout: float = 15) -> None:
        """End it as an orderly shutdown would; by force if it does not listen."""
        if self.stopped:
            self.signal_all(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            if self.popen is not None:
                self.popen.wait(timeout)
        self.kill()

    def output(self) -> str:
        """Return what it has said since it was started last."""
        with self.log.open("rb") as log:
            log.seek(self._began_at)
            return log.read().decode(errors="replace")

    def last_words(self, lines: int = 25) -> str:
        return "\n".join(self.output().splitlines()[-lines:])


class Submitter:
    """A program that submits; keeps every id that was acknowledged to it."""

    def __init__(self, env: Mapping[str, str], logs: Path) -> None:
        self.env, self.errors = env, logs / "submitter.log"
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self._pid = 0
        self._peer: TextIO | None = None

    @property
    def runs(self) -> bool:
        return self._peer is not None

    def start(self) -> None:
        with forks.connect("tests.support.submitter", self.env) as connection:
            self._peer = connection.makefile("rw")
        self._write(str(self.errors))
        self._pid = self._answer()["pid"]

    def submit(self, name: str, many: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
        """Submit in slices; return the accepted ids."""
        return [one for answer in self._ask(type=name, many=many, options=options) for one in answer["ids"]]

    def submit_all(self, name: str, many: int | Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
        """Submit so many jobs, or one for each of the parameters; all must be accepted. Start first if need be."""
        if not self.runs:
            self.start()
        wanted = [{} for _ in range(many)] if isinstance(many, int) else list(many)
        ids = self.submit(name, wanted, **options)
        assert len(ids) == len(wanted), self.refused
        return ids

    def submit_each(self, name: str, many: Sequence[Mapping[str, Any]], **options: Any) -> list[float]:
        """Submit one by one; return how long each that was accepted took, in seconds."""
        answers = self._ask(type=name, many=many, options=options, each=True)
        return [seconds for answer in answers for seconds in answer["seconds"]]

    def ask(self, **asked: Any) -> None:
        """Ask without waiting for the answers."""
        self._write(json.dumps(asked))

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the answers to what was asked; ends early if the program was killed."""
        while answer := self._answer():
            self.acknowledged += answer["ids"]
            self.refused += [answer["error"]] if answer.get("error") else []
            yield answer
            if answer.get("end"):
                return

    def kill(self) -> None:
        """SIGKILL it; what it had acknowledged before is still read."""
        if self._peer is not None:
            self._kill()
            for _ in self.answers():
                pass
            self._close()

    def stop(self) -> None:
        if self._peer is not None:
            self._kill()
            self._close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _close(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            with suppress(OSError):  # what was not written yet goes nowhere
                peer.close()

    def _ask(self, **asked: Any) -> list[dict[str, Any]]:
        self.ask(**asked)
        return list(self.answers())

    def _write(self, line: str) -> None:
        assert self._peer is not None
        self._peer.write(line + "\n")
        self._peer.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._peer is not None
        line = self._peer.readline()
        return dict(json.loads(line)) if line.endswith("\n") else {}


def gone(process: psutil.Process, *, timeout: float = 10) -> None:
    """Wait until a process is gone."""
    until(lambda: not is_alive(process), f"process {process.pid} is gone", timeout=timeout)
