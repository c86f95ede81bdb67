"""The options of `make run`, from the environment or `.env`; the error for a wrong value is a sentence."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import environ
import psutil

from project.local.embedded_launch import EmbeddedError

BASE_DIR = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one start. An empty address means the embedded server; port 0 means no port."""

    data_dir: Path
    port: int
    flower_port: int
    metrics_port: int
    concurrency: str
    lease_seconds: float
    drain_seconds: float
    job_packages: list[str]
    database_url: str
    database_owner_url: str
    redis_url: str
    email_url: str
    secret_key: str

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.flower_port}"


def read() -> Options:
    """Read the options as `project.settings` does, so that the parts and the supervisor have the same values."""
    env = environ.FileAwareEnv()
    env.read_env(str(BASE_DIR / ".env"), overwrite=False)

    def text(name: str, default: str = "") -> str:
        return str(env.str(name, default=default)).strip()

    return Options(
        data_dir=Path(text("DATA_DIR", str(BASE_DIR / ".esteira"))).absolute(),
        port=_port("PORT", text("PORT", "8000")),
        flower_port=_port("FLOWER_PORT", text("FLOWER_PORT", "5555")),
        metrics_port=_port_or_none("METRICS_PORT", text("METRICS_PORT")),
        concurrency=_concurrency(text("CONCURRENCY", "2")),
        lease_seconds=_seconds("LEASE_SECONDS", text("LEASE_SECONDS", "10"), least=1),
        drain_seconds=_seconds("DRAIN_SECONDS", text("DRAIN_SECONDS", "25"), least=0),
        job_packages=[name.strip() for name in text("JOB_PACKAGES", "jobs").split(",") if name.strip()],
        database_url=text("DATABASE_URL"),
        database_owner_url=text("DATABASE_OWNER_URL"),
        redis_url=text("REDIS_URL"),
        email_url=text("EMAIL_URL"),
        secret_key=text("SECRET_KEY"),
    )


def require_free(name: str, port: int) -> None:
    """Raise EmbeddedError for a port in use, with the process that has it and the variable for another port."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
    except PermissionError:
        raise EmbeddedError(
            f"Port {port} needs root. Choose a port above 1023: make run {name}={port + 8000}"
        ) from None
    except OSError:
        raise EmbeddedError(
            f"Port {port} is in use by {_owner_of(port)}. Stop it, or choose another port: make run {name}={port + 1}"
        ) from None


def _owner_of(port: int) -> str:
    """Describe the process that listens on the port, if this user may see it."""
    unknown = f"another program (to see which: ss -ltnp 'sport = :{port}')"
    try:
        listening = [
            c
            for c in psutil.net_connections("tcp")
            if c.laddr and c.laddr.port == port and c.status == "LISTEN"
        ]
        process = psutil.Process(next(c.pid for c in listening if c.pid))
        return f"process {process.pid} ({process.name()}, user {process.username()})"
    except (psutil.Error, StopIteration, OSError):
        return unknown


def _port(name: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        raise EmbeddedError(f"{name}={value} is not a port: give a number from 1 to 65535.")
    return int(value)


def _port_or_none(name: str, value: str) -> int:
    """Return 0 for no port: a laptop rarely has a Prometheus, and one port less can be in use."""
    return 0 if value in ("", "0") else _port(name, value)


def _concurrency(value: str) -> str:
    if value != "auto" and (not value.isdecimal() or int(value) < 1):
        raise EmbeddedError(f"CONCURRENCY={value} is not a number of processes: give 1 or more, or auto.")
    return value


def _seconds(name: str, value: str, least: float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if seconds < least:
        raise EmbeddedError(f"{name}={value} is not a time: give seconds, at least {least}.")
    return seconds
