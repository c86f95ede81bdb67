"""The common base of the embedded servers: a folder, a port, a password made once, a process with its children.

`launch()` prepares the data and returns the command, for a supervisor; `start()`, `stop()` and `kill()` do everything
for a test. A server can be started again on the same port and data, in whatever way it ended.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import psutil

from project.local.embedded_launch import EmbeddedError, Launch


def free_port(wanted: int | None = None) -> int:
    """Return a port on 127.0.0.1 that is free now: the wanted one, if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port


class Server(ABC):
    """One embedded server: a folder of its own, a port, a password, and at most one process."""

    name = "server"
    stop_signals: Mapping[str, signal.Signals] = {}

    def __init__(self, home: Path, port: int | None = None, options: Mapping[str, str] | None = None) -> None:
        self.home = Path(home).resolve()
        self.port = port or free_port()
        self.options = dict(options or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True, exist_ok=True)
        self.password = _kept_password(self.home / "password")

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def log(self) -> Path:
        """The file for the server's output after `start()`."""
        return self.home / "server.log"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise EmbeddedError(f"{self.name} in {self.home} has not been started")
        return self.process.pid

    @abstractmethod
    def launch(self) -> Launch:
        """Prepare the data, remove leftovers of an earlier run, and return the command."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server accepts connections now."""

    def start(self, timeout: float = 60) -> None:
        """Start the server and return once it answers."""
        with self.log.open("ab") as log:
            self.process = self.launch().popen(log)
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self.process.poll() is not None:
                raise EmbeddedError(f"{self.name} stopped while starting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"{self.name} did not answer within {timeout:.0f} s: {self._last_words()}"
                )
            time.sleep(0.02)

    def stop(self, mode: str = "fast", timeout: float = 30) -> None:
        """Stop the server and wait until all its processes have ended; harmless if it does not run."""
        self._end(self.stop_signals[mode], timeout)

    def kill(self) -> None:
        """End its main process with SIGKILL, like a crash, and wait until its children have ended too."""
        self._end(signal.SIGKILL, timeout=30)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        orphans = psutil.Process(self.pid).children(recursive=True)
        self.process.send_signal(how)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end_processes(orphans, signal.SIGKILL, patience=timeout)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-3:]) or "it printed nothing"


def end_processes(processes: list[psutil.Process], how: signal.Signals, patience: float) -> None:
    """Send the signal, wait, and send SIGKILL to the processes that still run."""
    for process in processes:
        _signal(process, how)
    deadline = time.monotonic() + patience
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    if alive and how != signal.SIGKILL:
        end_processes(alive, signal.SIGKILL, patience)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; a zombie does not (in a container it may never be reaped)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        return


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically with one that only its owner can read."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _kept_password(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()
