"""The folder `.esteira/`: a lock for one supervisor at a time, addresses and secrets, process ids, and leftovers.

`manage.py` reads `env` while the stack runs, and the next start reads the secrets in it again; only its owner may read
it. `run/lock` is locked with flock, which the kernel releases at every end of the supervisor: so a process id that the
next supervisor finds in `run/` is a leftover.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shlex
import signal
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from project.local.embedded import free_port
from project.local.embedded_launch import EmbeddedError
from project.local.embedded_server import end_processes, write_private

PID_FILE_LAG_SECONDS = 5


class Home:
    """The folder of one stack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.mail = root / "mail"
        self._lock: int | None = None

    def claim(self) -> None:
        """Lock the folder until this process ends; raises EmbeddedError with the owner if it is in use."""
        self._refuse_strangers()
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise EmbeddedError(
                f"{self.root} cannot be written ({error.strerror}). Choose another folder: make run DATA_DIR=…"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(self._already_running()) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    def kept(self) -> dict[str, str]:
        """Return the variables that an earlier start wrote to `env`."""
        file = self.root / "env"
        lines = file.read_text().splitlines() if file.exists() else []
        pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return {name: "".join(shlex.split(value)) for name, _, value in pairs}

    def keep(self, values: dict[str, str]) -> None:
        """Write `env`: the addresses in use and the secrets made once."""
        head = "# Written by `make run` at every start, and read by manage.py. The secrets are made once.\n"
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        write_private(self.root / "env", head + "".join(lines))

    def port_of(self, kept_url: str) -> int:
        """Return the port of an earlier start, if it is free, so that addresses do not change."""
        try:
            wanted = (
                urlsplit(kept_url).port if "@127.0.0.1:" in kept_url or "//127.0.0.1:" in kept_url else None
            )
        except ValueError:
            wanted = None
        return free_port(wanted)

    def note_pid(self, name: str, pid: int) -> None:
        fresh = self.run / f".{name}.pid.new"
        fresh.write_text(f"{pid}\n")
        fresh.replace(self.run / f"{name}.pid")

    def forget_pid(self, name: str) -> None:
        (self.run / f"{name}.pid").unlink(missing_ok=True)

    def clear_leftovers(self) -> list[str]:
        """End the processes that a killed supervisor left; return the names of those parts."""
        left = {}
        for file in sorted(self.run.glob("*.pid")):
            # `Postgres` ends its own leftovers, with a softer signal.
            if file.stem != "postgres" and (family := _family(file)):
                left[file.stem] = family
            file.unlink()
        end_processes(
            [process for family in left.values() for process in family], signal.SIGTERM, patience=10
        )
        return list(left)

    def _refuse_strangers(self) -> None:
        owner = self.root.stat().st_uid if self.root.exists() else os.geteuid()
        if owner != os.geteuid():
            name, you = _user_name(owner), _user_name(os.geteuid())
            raise EmbeddedError(
                f"{self.root} belongs to {name}, who started the stack before, and you are {you}. "
                f"Start it as {name}, or choose another folder: make run DATA_DIR=…"
            )

    def _already_running(self) -> str:
        pid = (self.run / "lock").read_text().strip() or "unknown"
        where = self.kept().get("WEB_URL", "")
        return (
            f"Esteira already runs from this folder: process {pid}{', ' + where if where else ''}. "
            f"Stop it with Ctrl-C in its terminal or `kill {pid}`; to start a second stack: "
            "make run DATA_DIR=… PORT=… FLOWER_PORT=…"
        )


def _family(file: Path) -> list[psutil.Process]:
    """Return the process of a pid file and its children; none if the id belongs to a newer process."""
    try:
        process = psutil.Process(int(file.read_text()))
        lag = file.stat().st_mtime - process.create_time()
        return [process, *process.children(recursive=True)] if abs(lag) < PID_FILE_LAG_SECONDS else []
    except (ValueError, psutil.Error):
        return []


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
