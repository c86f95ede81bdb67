"""Track the connections to Redis that one worker opened, so that a failed attempt leaves none open.

Stock Celery 5.7 closes only the connection from which it consumes. It forgets other connections if an error occurs
between "connected" and "consuming". A read-only Redis (a replica after a failover) accepts each connection and refuses
the commands that follow, so each attempt left two sockets and a callback of the event loop behind. Closing may fail
halfway for the same reason, because it returns messages to their queue. If the process dies here, the kernel closes all
sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.utils import threads

CLOSE_TIMEOUT_S = 2.0
#: Names inside kombu.
TRANSPORT, CHANNELS = "_transport", ("channels", "_avail_channels")
CLOSE_CHANNEL = ("_close_clients", "_disconnect_pools")


class Links:
    """The connections and callbacks that one consumer has opened since its last connect."""

    def __init__(self) -> None:
        self._connections: list[Any] = []
        self._ticks: set[Callable[[], None]] = set()

    def add(self, connection: Any) -> None:
        """Record a connection before it is opened."""
        if not any(known is connection for known in self._connections):
            self._connections.append(connection)

    def watch_ticks(self, hub: Any, connect: Callable[[], Any]) -> Any:
        """Connect, and record the event loop callbacks that this adds, which happens before the connect may fail."""
        before = set(hub.on_tick) if hub is not None else set()
        try:
            return connect()
        finally:
            if hub is not None:
                self._ticks |= hub.on_tick - before

    def drop(self, hub: Any) -> None:
        """Close everything: cleanly if that works, otherwise by force."""
        connections, self._connections = self._connections, []
        ticks, self._ticks = self._ticks, set()
        if hub is not None:
            hub.on_tick -= ticks
        for connection in connections:
            _close(connection)


def _close(connection: Any) -> None:
    """Close one connection; if a later kombu renames these functions, they are skipped here and a test fails."""
    transport = getattr(connection, TRANSPORT, None)  # the property would open another connection
    channels = [one for kept in CHANNELS for one in getattr(transport, kept, None) or ()]
    with suppress(Exception):  # a broken connection may raise anything; its channels are closed below
        threads.bound_open_broker_sockets(connection, CLOSE_TIMEOUT_S)  # type: ignore[attr-defined]  # new in 5.7
    with suppress(Exception):  # as above
        connection.close()
    for channel in channels:
        for close in CLOSE_CHANNEL:
            with suppress(Exception):  # as above
                getattr(channel, close)()
