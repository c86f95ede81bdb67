"""The connections to Redis that one worker opened, so that none outlives the attempt that opened it.

Stock Celery 5.7 closes the one connection that it consumes from. It forgets another if an error meets it between
"connected" and "consuming": a Redis that may not be written (a replica after a fail-over) connects each time and
refuses what comes next, so each attempt left two sockets and a callback of the event loop behind. To close may fail
halfway in the same way, because it gives messages back. If the process dies here, the kernel closes everything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.utils import threads

CLOSE_TIMEOUT_S = 2.0
#: kombu's own names.
TRANSPORT, CHANNELS = "_transport", ("channels", "_avail_channels")
CLOSE_CHANNEL = ("_close_clients", "_disconnect_pools")


class Links:
    """What one consumer has opened since it connected last."""

    def __init__(self) -> None:
        self._connections: list[Any] = []
        self._ticks: set[Callable[[], None]] = set()

    def add(self, connection: Any) -> None:
        """Remember a connection before it is opened."""
        if not any(known is connection for known in self._connections):
            self._connections.append(connection)

    def watch_ticks(self, hub: Any, connect: Callable[[], Any]) -> Any:
        """Connect, and remember what that asked the event loop to call; it asks before it may fail."""
        before = set(hub.on_tick) if hub is not None else set()
        try:
            return connect()
        finally:
            if hub is not None:
                self._ticks |= hub.on_tick - before

    def drop(self, hub: Any) -> None:
        """Close everything, politely if that works, and in any case."""
        connections, self._connections = self._connections, []
        ticks, self._ticks = self._ticks, set()
        if hub is not None:
            hub.on_tick -= ticks
        for connection in connections:
            _close(connection)


def _close(connection: Any) -> None:
    """Close one connection; what kombu may call otherwise one day is passed over here, and a test tells of it."""
    transport = getattr(connection, TRANSPORT, None)  # the property would open another
    channels = [one for kept in CHANNELS for one in getattr(transport, kept, None) or ()]
    with suppress(Exception):  # a broken connection may raise anything; what it held is closed below
        threads.bound_open_broker_sockets(connection, CLOSE_TIMEOUT_S)  # type: ignore[attr-defined]  # new in 5.7
    with suppress(Exception):  # as above
        connection.close()
    for channel in channels:
        for close in CLOSE_CHANNEL:
            with suppress(Exception):  # as above
                getattr(channel, close)()
