"""The queues of an app's own Celery tasks, which its workers read beside those of jobs.

Celery makes the default queue only if the app names no queue; a list that held only the queues of jobs would take the
app's own tasks away from its workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery import Celery
from kombu import Exchange, Queue


def own_queues(app: Celery) -> list[Queue]:
    """Return the queues that the app's workers read without `-Q`: those of `task_queues`, or the default one."""
    conf = app.conf
    named = conf.task_queues or []
    if isinstance(named, Mapping):
        named = [Queue.from_dict(name, **options) for name, options in named.items()]
    return list(named) or [_default(app)]


def routed_queues(app: Celery) -> list[str]:
    """Return the queues of the app's `task_routes`, which only workers with `-Q` read."""
    return list(_routed(app.conf.task_routes))


def _default(app: Celery) -> Queue:
    """Return the default queue as Celery makes it."""
    conf = app.conf
    name = conf.task_default_queue
    exchange = Exchange(conf.task_default_exchange or name, type=conf.task_default_exchange_type)
    return Queue(name, exchange, routing_key=conf.task_default_routing_key or name)


def _routed(routes: Any) -> Iterator[str]:
    """Yield the queues in routes that are data; what a function returns is known only when a task is sent."""
    if isinstance(routes, Mapping):
        routes = routes.values()
    if isinstance(routes, Iterable) and not isinstance(routes, str):
        for one in routes:
            if isinstance(one, Mapping):
                queue = one.get("queue", "")
                if queue:
                    yield str(getattr(queue, "name", queue))
                else:
                    yield from _routed(one)
            elif isinstance(one, tuple | list):
                yield from _routed(one)
