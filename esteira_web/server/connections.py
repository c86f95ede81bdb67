"""gunicorn's worker with two limits for which it has no setting: the number of connections, and the time for the head.

gunicorn's own `keepalive` limits the time between two requests on one connection, with the head of the next. Bodies
have their limits in `esteira_web.server.bodies`, where an answer can have a problem document.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from esteira_web.server import framing

#: The time from the beginning of a connection until the head of its first request has arrived.
HEAD_S = 10.0
#: If a client reads nothing of its answer for so long, the kernel ends the connection (Linux).
UNREAD_S = 60.0
#: The size of one read from a connection, and of the buffer for a body that is not being read.
READ_BYTES = 64 * 1024
TOO_MANY = "This process has reached its limit of connections. Try again in a few seconds."
TOO_SLOW = f"The head of the request did not arrive within {HEAD_S:g} s."


class Protocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn is not typed
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._heard = False
        self._late: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._max_buffer_size = READ_BYTES
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        _cut_off_after(transport.get_extra_info("socket"), UNREAD_S)
        if self.worker.nr_conns > self.worker.worker_connections:
            self._end(503, TOO_MANY, (("Retry-After", "2"),))
        else:
            self._late = self.worker.loop.call_later(HEAD_S, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _on_headers_complete(self) -> Any:
        self._in_time()
        said = super()._on_headers_complete()
        request = self._current_request
        if framing.fault(request.headers_bytes, ".".join(map(str, request.version))):
            request.must_close = True  # a proxy may have read the following bytes as a part of this request
        return said

    def _is_websocket_upgrade(self, request: Any) -> bool:
        """Treat an upgrade as a plain request: the application refuses it with a problem document."""
        return False

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        self._late = None
        self._end(408 if self._heard else 0, TOO_SLOW)

    def _end(self, status: int, said: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        if status:
            self._send_error_response(status, said, headers)
        self._close_transport()
        if self._request_ready is not None:
            self._request_ready.set()  # the task that waits for the head sees that the connection is closed


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """gunicorn's own worker with these connections: `gunicorn -k esteira_web.server.connections.Worker`."""

    def init_process(self) -> None:
        gasgi.ASGIProtocol = Protocol  # gunicorn reads the class from here for each new connection
        super().init_process()


def _cut_off_after(connection: socket.socket | None, seconds: float) -> None:
    if connection is not None and connection.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
