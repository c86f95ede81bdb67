"""The parts of the stack: the embedded servers, and the four processes as they run in production.

Every part has a health check: a server by its protocol, web by `/readyz`, worker and beat by the file that each turn of
their loop touches. The kernel ends all parts if the supervisor is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

from project.local.embedded import Postgres, Valkey
from project.local.embedded_launch import Launch
from project.local.home import Home
from project.local.options import BASE_DIR, Options
from project.local.supervise import Part

DEV_USER = "admin"
OTHER_PASSWORD = f"The user {DEV_USER} has another password than the one in .esteira/env, and keeps it."
# Celery warns about root, because messages could carry code; the messages here are JSON with ids only.
HUSHED_WARNING = "ignore:You're running the worker with superuser privileges"
WEB_DRAIN_SECONDS = 5  # an open event stream would keep gunicorn alive for its whole graceful timeout


def postgres_part(server: Postgres) -> Part:
    return Part(
        name="postgres",
        launch=server.launch,
        answers=server.answers,
        stop_signal=signal.SIGINT,
        hurry_signal=signal.SIGQUIT,
        patience_seconds=20,
    )


def redis_part(server: Valkey) -> Part:
    return Part(
        name="redis", launch=server.launch, answers=server.answers, muted="overcommit must be enabled"
    )


def mail_part(port: int, home: Home, env: dict[str, str]) -> Part:
    return Part(
        name="mail",
        launch=lambda: _python(env, "project.local.mailbox", str(port), str(home.mail)),
        answers=lambda: _is_open(port),
    )


def app_parts(options: Options, home: Home, env: dict[str, str]) -> list[Part]:
    """Return the four processes; call this directly before their start, because older heartbeat files do not count."""
    began = time.time()
    celery = ("celery", "--quiet", "-A", "project")  # without the banners
    gunicorn = (
        "gunicorn",
        "project.asgi",
        "-k",
        "esteira_web.server.connections.Worker",
        "--no-control-socket",
    )
    ports = [port for port in (options.port, options.metrics_port) if port]
    binds = [word for port in ports for word in ("--bind", f"127.0.0.1:{port}")]
    web = (*gunicorn, *binds, "--graceful-timeout", str(WEB_DRAIN_SECONDS))
    return [
        Part(
            name="web",
            launch=lambda: _python(env, *web),
            answers=lambda: _says_ready(f"{options.web_url}/readyz"),
            reload_signal=signal.SIGHUP,
        ),
        Part(
            name="worker",
            launch=lambda: _python(env, *celery, "worker"),
            answers=lambda: _touched_since(began, home.run / "worker.alive"),
            patience_seconds=options.drain_seconds + 5,
        ),
        Part(
            name="beat",
            launch=lambda: _python(env, *celery, "beat"),
            answers=lambda: _touched_since(began, home.run / "beat.alive"),
        ),
        Part(
            name="flower",
            launch=lambda: _python(env, *celery, "flower", "--logging=warning"),
            answers=lambda: _is_open(options.flower_port),
            muted="Inspect method",  # Flower asks before the worker has started, and asks again later
        ),
    ]


def environment(options: Options, addresses: dict[str, str]) -> dict[str, str]:
    """Return the environment of the parts: the caller's, with the addresses and the options of this start."""
    return {
        **os.environ,
        **addresses,
        "DATA_DIR": str(options.data_dir),
        "RUN_DIR": str(options.data_dir / "run"),
        "CONCURRENCY": options.concurrency,
        "LEASE_SECONDS": f"{options.lease_seconds:g}",
        "DRAIN_SECONDS": f"{options.drain_seconds:g}",
        "JOB_PACKAGES": ",".join(options.job_packages),
        "METRICS_PORT": str(options.metrics_port),
        "FLOWER_URL": options.flower_url,
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": str(options.flower_port),
        "FLOWER_BASIC_AUTH": f"{DEV_USER}:{addresses['DEV_PASSWORD']}",
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), HUSHED_WARNING])),
    }


def prepare(env: dict[str, str]) -> Launch:
    """Migrate, and make the development user."""
    return _python(env, "project.local.prepare")


def _python(env: dict[str, str], *module_and_arguments: str) -> Launch:
    return Launch(argv=[sys.executable, "-m", *module_and_arguments], env=env, cwd=BASE_DIR)


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def _says_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _touched_since(moment: float, file: Path) -> bool:
    return file.exists() and file.stat().st_mtime >= moment
