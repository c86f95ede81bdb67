"""Programs that are forked from a server which has loaded their libraries; see `forkserver` and `submitter`."""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from project.local.embedded_launch import Launch
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
#: What the interpreter and its C library read at their start: a fork has no start of its own.
READ_AT_THE_START = ("PYTHON", "LD_", "MALLOC_")
FORKSERVER = "tests.support.forkserver"


def environment(**ours: str) -> dict[str, str]:
    """Return this process's environment without the suite's own addresses, and with ours."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "SECRET_KEY": "for-tests-only",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
        **ours,
    }


class Forked:
    """A process that was forked from the server: what tests use of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket) -> None:
        self._answers = connection.makefile()
        self._connection = connection
        self.pid = int(json.loads(self._answers.readline())["pid"])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float) -> int:
        """Return its return code; raise subprocess.TimeoutExpired."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return status

    def send_signal(self, how: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, how)

    def _look(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(json.loads(self._answers.readline())["status"])
            self._answers.close()
            self._connection.close()
        return self.returncode


def completed(
    arguments: Sequence[str], env: Mapping[str, str], *, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` to its end, as subprocess.run does; raise subprocess.TimeoutExpired."""
    command = [sys.executable, "-m", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        forked = run(command, env, out, errors)
        if forked is None:
            return subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=timeout
            )
        status = forked.wait(timeout)
        return subprocess.CompletedProcess(command, status, out.read_text(), errors.read_text())


def run(
    arguments: Sequence[str], env: Mapping[str, str], log: Path, errors: Path | None = None
) -> Forked | None:
    """Fork `python -m …` with this environment and no other; return None if that would differ from executing it.

    With COLD=1 nothing is forked: everything starts as a user starts it.
    """
    if list(arguments[:2]) != [sys.executable, "-m"] or os.environ.get("COLD") or sys.platform != "linux":
        return None
    usual = environment()
    if _of_the_interpreter(env) != _of_the_interpreter(usual):
        return None
    connection = connect(FORKSERVER, usual)
    files = {"out": str(log), "errors": str(errors or log)}
    asked = {"argv": arguments[2:], "env": dict(env), "cwd": str(ROOT), **files}
    connection.sendall(json.dumps(asked).encode() + b"\n")
    return Forked(connection)


def connect(server: str, env: Mapping[str, str]) -> socket.socket:
    """Return a connection to the server that runs with this environment; it is started once for all tests."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_door(server, frozenset(env.items())))
    return connection


@cache
def _door(server: str, env: frozenset[tuple[str, str]]) -> str:
    """Start a server, which ends with this process; return where it listens."""
    folder = Path(tempfile.mkdtemp(prefix="esteira-forks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    door, log = folder / "door", folder / "log"
    command = [sys.executable, "-m", server, str(door)]
    forked = None if server == FORKSERVER else run(command, dict(env), log)
    with log.open("ab") as output:
        process = forked or Launch(argv=command, env=dict(env), cwd=ROOT).popen(output)

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        return door.exists()

    until(listens, f"{server} listens")
    return str(door)


def _of_the_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_THE_START)}
