"""Celery's remote control applied to jobs: a command that would silently stop jobs is refused with an explanation.

Flower's buttons and `celery control` send these commands; `esteira.worker.steering` decides whether a worker obeys
them. For Celery's own tasks they work as Celery documents them. A hint that a worker holds back is missing in Redis, so
the keeper publishes it again and again. Therefore no command may make a worker collect hints, or leave it without a
queue or without a pool process. This module keeps no state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.worker.control import Panel

from esteira.broker.batching import known_queues
from esteira.broker.hint import DOOR
from esteira.job_types.registry import registry

Complaint = Callable[..., str]


def guard() -> None:
    """Put a check before each command that can do harm; call it once in a process."""
    for complaint in (
        rate_limit,
        time_limit,
        pool_grow,
        pool_shrink,
        autoscale,
        add_consumer,
        cancel_consumer,
        election,
    ):
        Panel.data[complaint.__name__] = _checked(Panel.data[complaint.__name__], complaint)


def limited_by_celery(task_name: str) -> bool:
    """Return whether Celery may hold back messages of a task; it must not hold back hints."""
    return task_name != DOOR and task_name not in registry.names()


# Each of these functions has the name and the arguments of its command; it returns an error text, or an empty one.


def rate_limit(state: Any, task_name: str = "", **_: Any) -> str:
    if limited_by_celery(task_name):
        return ""
    return (
        f"{task_name} is a job type; a hint that waits in a worker is published again, so Celery's rate limits would "
        "stop it. Pause its queue, or give it a queue of its own and a worker with few processes."
    )


def time_limit(state: Any, task_name: str = "", **_: Any) -> str:
    if limited_by_celery(task_name):
        return ""
    return f"{task_name} is a job type: its limit is @job(timeout=…)."


def pool_grow(state: Any, n: Any = 1, **_: Any) -> str:
    return "" if int(n) >= 1 else "Write how many processes, at least 1."


def pool_shrink(state: Any, n: Any = 1, **_: Any) -> str:
    there = state.consumer.pool.num_processes
    if int(n) < 1:
        return "Write how many processes, at least 1."
    if int(n) >= there:
        return (
            f"At least one process must be left, and there are {there}. Stop the worker, or pause its queues."
        )
    return ""


def autoscale(state: Any, max: Any = None, min: Any = None, **_: Any) -> str:  # noqa: A002  (Celery's argument names)
    scaler = state.consumer.controller.autoscaler
    if scaler is None:
        return "This worker was started without --autoscale."
    least = int(scaler.min_concurrency if min is None else min)
    most = int(scaler.max_concurrency if max is None else max)
    return (
        ""
        if 1 <= least <= most
        else f"The minimum must be at least 1, and the maximum not below it: not {most},{least}."
    )


def add_consumer(state: Any, queue: str = "", **_: Any) -> str:
    known = known_queues()
    if queue in known:
        return ""
    return (
        f"No job type has the queue {queue!r} and JOB_QUEUES does not name it; there are: {', '.join(known)}."
    )


def cancel_consumer(state: Any, queue: str = "", **_: Any) -> str:
    reads = set(state.app.amqp.queues.consume_from)
    if queue not in reads:
        return f"This worker does not read {queue!r}, but {', '.join(sorted(reads))}."
    return (
        ""
        if reads - {queue}
        else f"{queue!r} is all that this worker reads. Stop the worker, or pause the queue."
    )


def election(state: Any, **_: Any) -> str:
    return "Workers do not gossip here."


def _checked(command: Callable[..., Any], complaint: Complaint) -> Callable[..., Any]:
    @wraps(command)
    def checked(state: Any, **arguments: Any) -> Any:
        if wrong := complaint(state, **arguments):
            return {"error": wrong}
        return command(state, **arguments)

    return checked
