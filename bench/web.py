"""Web as `make run` starts it, with gunicorn and the usual log, but with two processes as in a container."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth import get_user_model

from bench.parts import Machine, Part, until
from esteira_web.accounts.roles import Role
from esteira_web.accounts.tokens import create_token
from project.local.embedded import free_port

PROCESSES = 2
_GUNICORN = ("gunicorn", "project.asgi", "-k", "esteira_web.server.connections.Worker", "--no-control-socket")


class Web:
    """An address that answers, and a token that may submit."""

    def __init__(self, part: Part, port: int, token: str) -> None:
        self.part, self.port, self.token = part, port, token


@contextmanager
def running(machine: Machine) -> Iterator[Web]:
    """Start web, and stop it."""
    port = free_port()
    options = ("--bind", f"127.0.0.1:{port}", "--workers", str(PROCESSES))
    part = Part(
        "web",
        [sys.executable, "-m", *_GUNICORN, *options],
        machine.home,
        {"METRICS_PORT": "0", "LOG_LEVEL": "INFO"},
    )
    try:
        until(lambda: part.alive() and _is_ready(port), "web answers")
        yield Web(part, port, _token())
    finally:
        part.stop()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _token() -> str:
    users = get_user_model()
    user = users._default_manager.filter(is_superuser=True).first()
    user = user or users._default_manager.create_superuser("bench", password=None)  # type: ignore[attr-defined]
    return create_token(user, "bench", role=Role.SUBMITTER, by="bench")[1]
