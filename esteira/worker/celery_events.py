"""Celery's own events (what Flower shows), sent without ever holding up the worker's loop."""

from __future__ import annotations

import time
from typing import Any

from celery.events import EventDispatcher

#: What could not be sent is not tried again before this: each try may take as long as Redis is waited for.
QUIET_S = 5.0


class BriefDispatcher(EventDispatcher):
    """Celery's sender of events, which waits for Redis once in a while at most, and keeps what it cannot send.

    Stock Celery 5.7 tries to send a heartbeat until it succeeds. While Redis takes connections and answers nothing, the
    event loop would stand still, and a health check would have the worker restarted (there is a test for it).
    """

    _outbound_buffer: Any  # Celery's own, which its published types leave out
    _quiet_until = 0.0

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        kept = len(self._outbound_buffer)
        if time.monotonic() < self._quiet_until:
            self._outbound_buffer.append((event, routing_key))
            return
        super()._publish(event, producer, routing_key)  # type: ignore[misc]  # likewise
        if len(self._outbound_buffer) > kept:
            self._quiet_until = time.monotonic() + QUIET_S
