"""Turn one message, as Celery hands it to a producer, into rows: one for each queue that it goes to.

Everything that a caller may get wrong is refused here, before anything is stored: names and ids that are too long,
messages over 16 MiB, moments outside the bounds, queues that do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from typing import Any

from celery.utils.time import maybe_make_aware
from django.conf import settings

from esteira.celery import refusals
from esteira.celery.database import set_up
from esteira.celery.message import envelope, read
from esteira.celery.routes import queues_for
from esteira.job_types.registry import registry
from esteira.record.tasks import ARGS, KWARGS, NewTask
from esteira.values import bounds

#: How much of a task's arguments people see; the message has all.
SAID_MOST = 2000
#: Celery's priorities 0 to 9, as kombu's four lists for Redis divide them; Esteira has three: high, normal and low.
HIGH, NORMAL, LOW = 3, 6, 9
#: The words that kombu's `publish` takes beside the properties of a message.
NO_PROPERTIES = ("mandatory", "immediate", "declare", "retry", "retry_policy", "timeout", "confirm_timeout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Delays:
    """Delays that a sender gave in seconds; None if it gave none, or a moment."""

    countdown_s: float | None = None
    expires_s: float | None = None

    @classmethod
    def of(cls, countdown: Any, expires: Any) -> Delays:
        """Check delays before Celery adds them to its own clock; raises InvalidOption."""
        return cls(
            countdown_s=_within("countdown", _seconds(countdown or None)),
            expires_s=_within("expires", _seconds(expires)),
        )


def rows(
    app: Any, producer: Any, body: Any, headers: dict[str, Any], how: dict[str, Any]
) -> list[NewTask] | None:
    """Return the rows of a message; None if it is a broadcast. Raises InvalidOption or TooLarge."""
    name, task_id = headers["task"], headers["id"]
    _refuse_bad_names(name, task_id)
    exchange, routing_key = how.pop("exchange", None), how.pop("routing_key", None) or ""
    queues = queues_for(app, exchange, routing_key)
    if queues is None:
        return None
    asked = how.get("priority")
    message = _message(producer, body, headers, how, exchange, routing_key)
    if len(message) > bounds.MESSAGE_BYTES:
        raise refusals.too_large()
    delays: Delays = getattr(headers, "delays", None) or Delays()
    return [
        NewTask(
            task_id=task_id,
            type=name,
            said=_said(headers),
            message=message,
            queue=_queue(queue),
            priority=_priority(asked),
            lease_s=settings.ESTEIRA_LEASE_SECONDS,
            timeout_s=_limit_s(app, name, headers),
            delay_s=delays.countdown_s,
            run_at=_moment(app, "eta", headers.get("eta")) if delays.countdown_s is None else None,
            expires_in_s=delays.expires_s,
            expires_at=_moment(app, "expires", headers.get("expires")) if delays.expires_s is None else None,
        )
        for queue in queues
    ]


def retries_of(task: NewTask) -> int:
    """Return how often a task was retried before this message."""
    retries = read(task.message).headers.get("retries")
    return retries if isinstance(retries, int) else 0


def _refuse_bad_names(name: Any, task_id: Any) -> None:
    bounds.TYPE_NAME.check("task", name)
    bounds.TASK_ID.check("task_id", task_id)
    set_up()
    if name in registry.names():
        raise refusals.job_type(name)


def _queue(name: str) -> str:
    bounds.QUEUE_NAME.check("queue", name)
    if name.startswith("behind."):
        raise refusals.reserved_queue()
    return name


def _message(
    producer: Any, body: Any, headers: dict[str, Any], how: dict[str, Any], exchange: Any, routing_key: str
) -> bytes:
    """Do what kombu's `publish` does, up to the point where it needs a channel."""
    for word in NO_PROPERTIES:
        how.pop(word, None)
    where, mode = producer._delivery_details(exchange or producer.exchange, how.pop("delivery_mode", None))
    properties: dict[str, Any] = {"delivery_mode": mode}
    if (expiration := how.pop("expiration", None)) is not None:
        properties["expiration"] = str(int(expiration * 1000))
    priority = how.pop("priority", None) or 0
    packed, content_type, content_encoding = producer._prepare(
        body,
        how.pop("serializer", None),
        how.pop("content_type", None),
        how.pop("content_encoding", None),
        how.pop("compression", None),
        headers,
    )
    properties.update(how)
    reply_to = properties.get("reply_to")
    properties["reply_to"] = getattr(reply_to, "name", reply_to)
    properties.update(priority=priority, delivery_info={"exchange": where, "routing_key": routing_key})
    return envelope(
        packed,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties=properties,
    )


def _said(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments as they may be shown: what a caller hid by `argsrepr` stays hidden."""
    return {
        shown: bounds.clean(str(headers.get(name) or ""))[:SAID_MOST]
        for shown, name in ((ARGS, "argsrepr"), (KWARGS, "kwargsrepr"))
    }


def _priority(asked: Any) -> int:
    if asked is None:
        return NORMAL
    return LOW if asked >= LOW else NORMAL if asked >= NORMAL else HIGH


def _limit_s(app: Any, name: str, headers: Mapping[str, Any]) -> float:
    """Return the time limit as far as the sender knows it; the worker applies the limits of the task itself."""
    hard, soft = headers.get("timelimit") or (None, None)
    task = app._tasks.get(name) if hasattr(app._tasks, "get") else None
    limit = hard or getattr(task, "time_limit", None) or soft or getattr(task, "soft_time_limit", None)
    seconds = _seconds(limit)
    return bounds.TIMEOUT.check("time_limit", seconds) if seconds else bounds.TIMEOUT.most


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def _within(field: str, seconds: float | None) -> float | None:
    """Return a delay; one that is over already is 0, as in Celery."""
    return None if seconds is None else bounds.DELAY.check(field, max(0.0, seconds))


def _moment(app: Any, field: str, value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise refusals.no_moment(field, value) from None
    return bounds.moment(field, maybe_make_aware(at, app.timezone))
