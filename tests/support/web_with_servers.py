"""gunicorn as it runs in production, with servers of its own, for tests that break them."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from project.local.embedded import Postgres, Valkey, free_port
from tests.support.clients import PASSWORD
from tests.support.process_stack import manage
from tests.support.processes import Process, gunicorn
from tests.support.waiting import until


@dataclass(frozen=True, kw_only=True)
class WebWithServers:
    """gunicorn as it runs in production, and what it needs."""

    web: Process
    port: int
    metrics_port: int
    postgres: Postgres
    valkey: Valkey
    token: str

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = 20,
        port: int | None = None,
        **headers: str,
    ) -> Any:
        """Send a request on a connection of its own; return the answer with its body as `.text`."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            content = json.dumps(body).encode() if isinstance(body, dict) else body
            connection.request(method, path, content, {"Authorization": f"Bearer {self.token}", **headers})
            response: Any = connection.getresponse()
            response.text = response.read()
            return response
        finally:
            connection.close()

    def measure(self, path: str = "/metrics", method: str = "GET") -> Any:
        """Ask at the port for metrics, as nobody in particular."""
        return self.ask(method, path, port=self.metrics_port, Authorization="", Host="10.1.2.3")

    def connect(self, *sent: bytes) -> socket.socket:
        """Open a connection of one's own and write to it as it is."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        for one in sent:
            connection.sendall(one)
        return connection

    def head(self, line: str, *headers: str, token: str = "") -> bytes:
        """Return the head of a request, as bytes."""
        known = [f"Authorization: Bearer {token}"] if token else []
        return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *known, *headers, "", ""]).encode()

    def submit(self) -> int:
        return int(self.ask("POST", "/api/v1/jobs", {"type": "demo.greet"}).status)

    def jobs(self) -> int:
        with psycopg.connect(self.postgres.url) as db:
            row = db.execute("SELECT count(*) FROM esteira_job").fetchone()
            return int(row[0]) if row else 0


def run_web_with_servers(home: Path, *flags: str, **settings: str) -> Iterator[WebWithServers]:
    """Start it, with more flags for gunicorn, and end it when the generator is closed."""
    for folder in (home, *home.parents):
        if folder.stat().st_uid == os.getuid() and folder != folder.parent and "pytest" in folder.name:
            folder.chmod(0o711)  # PostgreSQL refuses root and then runs as somebody who must get through
    postgres, valkey = Postgres(home / "postgres"), Valkey(home / "redis")
    port, metrics_port = free_port(), free_port()
    postgres.start()
    valkey.start()
    env = {
        **os.environ,
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "WEB_THREADS": "4",
        "METRICS_PORT": str(metrics_port),
        **settings,
    }
    manage("migrate", "--verbosity", "0", env=env)
    addresses = f"127.0.0.1:{port}", f"127.0.0.1:{metrics_port}"
    arguments = [*gunicorn(*addresses), "--workers", "1", *flags]
    (home / "logs").mkdir()
    web = Process("web", arguments, env, home / "logs")
    web.start()
    try:
        site = WebWithServers(
            web=web,
            port=port,
            metrics_port=metrics_port,
            postgres=postgres,
            valkey=valkey,
            token=_token(env),
        )
        until(lambda: _ready(site), "web is ready", timeout=60)
        yield site
    finally:
        web.kill()
        postgres.stop("immediate")
        valkey.kill()


def _token(env: dict[str, str]) -> str:
    """Make a superuser and a token in the site's own database, from a process that uses it."""
    code = (
        "from django.contrib.auth import get_user_model; from esteira_web.accounts.tokens import create_token; "
        f"user = get_user_model().objects.create_superuser('admin', '', '{PASSWORD}'); "
        "print('TOKEN', create_token(user, 'test', role='operator')[1])"
    )
    return manage("shell", "-c", code, env=env).split("TOKEN ", 1)[1].split()[0]


def _ready(site: WebWithServers) -> bool:
    try:
        return bool(site.ask("GET", "/readyz").status == 200)
    except OSError:
        return False


def status_of(connection: socket.socket) -> int:
    """Return the status of the answer on a connection, 0 if it was closed without one."""
    got = b""
    while b"\r\n" not in got and (part := connection.recv(4096)):
        got += part
    return int(got.split(b" ", 2)[1]) if got else 0
