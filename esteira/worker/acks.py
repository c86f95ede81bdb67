"""Hints are not acknowledged: what a worker took and never claimed, the keeper finds missing within seconds.

kombu writes each message that it hands out into `unacked`, waits for Redis to confirm that, and removes it again: two
round trips for a safety that the row already gives, and the first one delays every job. Messages of other Celery tasks
keep theirs. If the process dies here, a hint is gone; its row still says that it was published.
"""

from __future__ import annotations

from typing import Any

from esteira.job_types.registry import registry


def spare_hints(qos: Any) -> None:
    """Make one channel's bookkeeping of unacknowledged messages leave hints out; call it once for a channel."""
    append, ack, reject = qos.append, qos.ack, qos.reject
    hints = frozenset(registry.names())
    kept: set[str] = set()

    def append_others(message: Any, delivery_tag: str) -> None:
        task = message.headers.get("task")
        if not (isinstance(task, str) and task in hints):
            append(message, delivery_tag)
            kept.add(delivery_tag)

    def ack_others(delivery_tag: str) -> None:
        if delivery_tag in kept:
            kept.discard(delivery_tag)
            ack(delivery_tag)

    def reject_others(delivery_tag: str, requeue: bool = False) -> None:
        if delivery_tag in kept:
            kept.discard(delivery_tag)
            reject(delivery_tag, requeue=requeue)

    qos.append, qos.ack, qos.reject = append_others, ack_others, reject_others
