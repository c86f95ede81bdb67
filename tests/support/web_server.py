"""gunicorn as in production on the suite's own servers, and a way to send it requests that no library would send."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from project.local.embedded import free_port
from tests.support.processes import Process
from tests.support.waiting import until


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class WebServer:
    """One web process, for as long as the suite runs."""

    port: int = field(default_factory=free_port)
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="esteira-web-")))
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.home / "logs").mkdir()
        bind = ["--bind", f"127.0.0.1:{self.port}", "--workers", "1", "--no-control-socket"]
        arguments = ["gunicorn", "project.asgi", "-k", "asgi", *bind]
        self.process = Process("web", arguments, {**os.environ, "WEB_THREADS": "4"}, self.home / "logs")
        self.process.start()
        until(self._ready, "web is ready", timeout=60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Said:
        """Send a request as it is written, on a connection of its own; what drops the connection raises OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            return Said(status=answer.status, headers=answer.headers, body=answer.read())  # type: ignore[arg-type]
        finally:
            connection.close()

    def _ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False
