"""Jobs submitted by HTTP: how many a second, how long each takes, and what it costs web.

The whole stack runs, with two processes of web. The client keeps every connection busy: it sends the next request when
an answer is complete. It is one process on the same machine, and uses sockets directly, because an HTTP library would
take as much CPU as web does.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections import Counter

from bench.amounts import Amounts
from bench.bench_jobs import timed
from bench.esteira_side import EsteiraSide
from bench.parts import Machine, Meter
from bench.probes import Figures
from bench.web import Web, running

CONNECTIONS = (1, 32)
ACCEPTED = 202
WARM_UP_S = 0.5
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def measure(machine: Machine, esteira: EsteiraSide, amounts: Amounts) -> Figures:
    """Load web with each number of connections; return rates, latencies and CPU."""
    found: Figures = {}
    with esteira.running(), running(machine) as web:
        for connections in CONNECTIONS:
            name = f"HTTP submit, {connections} {'connection' if connections == 1 else 'connections'}"
            load(web, connections, min(WARM_UP_S, amounts.http_s))
            trees = esteira.trees()
            meter = Meter({**trees, "web": [web.part.process]})
            taken = load(web, connections, amounts.http_s)
            cpu = {f"{name}: {part}": micros for part, micros in meter.micros_per(len(taken.seconds)).items()}
            found |= {**taken.figures(name), f"{name}, web's CPU µs": cpu[f"{name}: web"], **cpu}
    return found


class Taken:
    """What the requests took, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.span = 0.0

    def figures(self, name: str) -> Figures:
        if set(self.statuses) != {ACCEPTED}:
            raise RuntimeError(
                f"{name}: all should have been accepted, but the answers are {dict(self.statuses)}"
            )
        return {
            f"{name}, requests/s": len(self.seconds) / self.span,
            f"{name} ms": [s * 1000 for s in self.seconds],
        }


def load(web: Web, connections: int, seconds: float) -> Taken:
    """Keep so many connections busy for so long."""
    taken, request = Taken(), _request(web)
    with selectors.DefaultSelector() as selector:
        began = time.monotonic()
        for _ in range(connections):
            connection = _Connection(web.port)
            connection.ask(request)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                if not (status := connection.read()):
                    continue
                taken.seconds.append(time.monotonic() - connection.began)
                taken.statuses[status] += 1
                if time.monotonic() - began < seconds:
                    connection.ask(request)
                else:
                    selector.unregister(connection.socket)
                    connection.socket.close()
        taken.span = time.monotonic() - began
    return taken


class _Connection:
    """A connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began, self._answer = 0.0, b""

    def ask(self, request: bytes) -> None:
        self.began, self._answer = time.monotonic(), b""
        self.socket.sendall(request)

    def read(self) -> int:
        """Return the status once the answer is complete, and 0 before."""
        received = self.socket.recv(65536)
        if not received:
            raise RuntimeError(f"web closed the connection after {self._answer!r}")
        self._answer += received
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return int(head[9:12]) if end and length and len(body) >= int(length[1]) else 0


def _request(web: Web) -> bytes:
    body = json.dumps({"type": timed.noop.name, "params": {}}).encode()
    head = [
        "POST /api/v1/jobs HTTP/1.1",
        f"Host: 127.0.0.1:{web.port}",
        f"Authorization: Bearer {web.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
