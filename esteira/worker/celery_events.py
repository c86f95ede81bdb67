"""Celery's own events (which Flower shows), sent without blocking the worker's event loop."""

from __future__ import annotations

import time
from typing import Any

from celery.events import EventDispatcher

#: After an event could not be sent, the next attempt waits this long: each attempt may last as long as the Redis
#: timeout.
QUIET_S = 5.0


class BriefDispatcher(EventDispatcher):
    """Celery's sender of events; it waits for Redis at most once in QUIET_S and keeps the events that it cannot send.

    Stock Celery 5.7 tries to send a heartbeat until it succeeds. While Redis accepts connections and answers nothing,
    the event loop would be blocked, and a failed health check would restart the worker (there is a test for it).
    """

    _outbound_buffer: Any  # a Celery attribute that its published types leave out
    _quiet_until = 0.0

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        kept = len(self._outbound_buffer)
        if time.monotonic() < self._quiet_until:
            self._outbound_buffer.append((event, routing_key))
            return
        super()._publish(event, producer, routing_key)  # type: ignore[misc]  # as above
        if len(self._outbound_buffer) > kept:
            self._quiet_until = time.monotonic() + QUIET_S
