"""Wake programs that wait for the result of a task: a message in Redis, and polling where none arrives.

The message holds nothing: whoever is woken reads the result in the database. A lost message only means that the waiter
looks again by itself, at its next interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import redis
from django.conf import settings

from esteira.broker import publisher

#: How long one command of a waiter may take; results are read by polling then.
TIMEOUT_S = 1.0
_client: redis.Redis | None = None


def wake(task_ids: Iterable[str]) -> None:
    """Wake those who wait for these tasks."""
    channels = [_channel(task_id) for task_id in task_ids]

    def send(client: redis.Redis) -> None:
        pipe = client.pipeline(transaction=False)
        for channel in channels:
            pipe.publish(channel, b"")
        pipe.execute()

    publisher.fast.read(send)


class Waiter:
    """Waits for one task; nothing is sent to Redis before the first wait."""

    def __init__(self, task_id: str) -> None:
        self._channel = _channel(task_id)
        self._pubsub: Any = None
        self._is_deaf = False

    def __enter__(self) -> Waiter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pubsub is not None:
            self._pubsub.close()

    def wait(self, seconds: float) -> None:
        """Return after a message, or after this time; at once after the first call, which only begins to listen."""
        if self._is_deaf or not publisher.fast.available():
            time.sleep(seconds)
            return
        try:
            if self._pubsub is None:
                self._pubsub = _shared().pubsub()  # type: ignore[no-untyped-call]
                self._pubsub.subscribe(self._channel)
                self._pubsub.get_message(timeout=TIMEOUT_S)  # the answer to the subscription
                return
            self._pubsub.get_message(timeout=seconds)
        except (redis.RedisError, OSError):
            self._is_deaf = True


def _shared() -> redis.Redis:
    """Return this process's client; its pool of connections notices a fork."""
    global _client
    if _client is None:
        _client = redis.Redis.from_url(
            settings.ESTEIRA_REDIS_URL, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S
        )
    return _client


def _channel(task_id: str) -> str:
    return f"{settings.ESTEIRA_REDIS_PREFIX}result.{task_id}"
