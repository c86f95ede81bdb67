"""To which queues a message goes: what a broker would find in its table of bindings, read from the app's queues.

The anonymous exchange leads to the queue of that name. In a topic exchange, queues bound with exactly the message's key
come first, as for a process that uses Redis and has declared no exchange; without one, the patterns decide. A fanout
exchange has no queue that anybody could wait in: such a message is sent to the broker as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kombu import Exchange
from kombu.transport.virtual.exchange import TopicExchange

from esteira.celery import refusals


def queues_for(app: Any, exchange: str | Exchange | None, routing_key: str) -> list[str] | None:
    """Return the queues of a message; None if it is broadcast. Raises InvalidOption if there is none."""
    name = exchange.name if isinstance(exchange, Exchange) else exchange
    if not name:
        return [routing_key]
    found: dict[str, bool] = {}
    for queue in app.amqp.queues.values():
        for bound, key in _bindings(queue):
            if bound.name != name:
                continue
            if bound.type == "fanout":
                return None
            if key == routing_key or (bound.type == "topic" and _matches(key, routing_key)):
                found[queue.name] = found.get(queue.name, False) or key == routing_key
    if not found:
        raise refusals.unbound(str(name), routing_key)
    return [queue for queue, exact in found.items() if exact] or list(found)


def _bindings(queue: Any) -> Iterator[tuple[Any, str]]:
    for binding in queue.bindings or ():
        yield binding.exchange, binding.routing_key or ""
    if queue.exchange is not None:
        yield queue.exchange, queue.routing_key or ""


def _matches(key: str, routing_key: str) -> bool:
    topic: Any = TopicExchange(None)
    return bool(topic._match(topic.key_to_pattern(key), routing_key))
