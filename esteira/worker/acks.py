"""Leave hints out of Celery's acknowledgements: the keeper finds and replaces a hint that was taken and never claimed.

kombu writes each message that it hands out into `unacked`, waits for Redis to confirm that, and removes it again. These
are two round trips for a safety that the row already gives, and the first one delays every job. Messages of other
Celery tasks are still acknowledged. If the process dies here, a hint is lost; its row is still marked as published, so
the keeper publishes the job again within seconds.
"""

from __future__ import annotations

from typing import Any

from esteira.broker.hint import DOOR
from esteira.job_types.registry import registry


def spare_hints(qos: Any) -> None:
    """Exclude hints from one channel's bookkeeping of unacknowledged messages; call it once for each channel."""
    append, ack, reject = qos.append, qos.ack, qos.reject
    hints = frozenset((*registry.names(), DOOR))
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
