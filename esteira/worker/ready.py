"""A worker is *ready* while it consumes all queues that it was started for and has at least one pool process.

A worker that is not connected to Redis, that was ordered to stop consuming a queue, or that has an empty pool, is alive
but not ready. It removes its readiness file at once, and logs the reason once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from esteira import liveness

log = logging.getLogger("esteira.worker")

#: A pool process that is just being replaced is not logged.
LOOKS_BEFORE_SAYING = 3


class Readiness:
    """One worker's readiness file, which its event loop keeps up to date."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues
        self._looks, self._said = 0, ""

    def look(self, consumer: Any) -> None:
        """Touch the readiness file or remove it; call it about once a second."""
        lacks = _lacks(consumer, self._queues)
        if not lacks:
            liveness.touch("worker", "ready")
            if self._said:
                log.info("the worker is ready again")
            self._looks, self._said = 0, ""
            return
        liveness.untouch("worker", "ready")
        self._looks += 1
        if self._looks >= LOOKS_BEFORE_SAYING and lacks != self._said:
            log.warning("alive but not ready: %s", lacks)
            self._said = lacks


def slots(pool: Any) -> int:
    """Return how many jobs a pool can run at a time; 0 after it was stopped."""
    try:
        return int(pool.num_processes)
    except AttributeError:  # Celery drops the inner pool when it stops
        return 0


def _lacks(consumer: Any, queues: Sequence[str]) -> str:
    if consumer.task_consumer is None:
        return "it is not connected to Redis"
    left = [name for name in queues if not consumer.task_consumer.consuming_from(name)]
    if left:
        return f"it does not consume {', '.join(left)} any more; restart it, or add the consumer again"
    processes = getattr(getattr(consumer.pool, "_pool", None), "_pool", None)
    if slots(consumer.pool) < 1 or (processes is not None and not processes):
        return "it has no pool process; restart it, or let the pool grow"
    return ""
