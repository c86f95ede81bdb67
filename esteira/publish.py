"""From committed rows to hints in Redis: best effort, bounded in time, never needed.

A request waits for Redis at most 0.25 s at a time, and after any error not at all for 5 s: the breaker is open and the
keeper feeds what was stored. Whatever is lost here is found by the keeper, so no error leaves this module.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis
from django.conf import settings

from esteira.wire import LISTS, Hint, list_key

log = logging.getLogger("esteira.publish")

FAST_TIMEOUT_S = 0.25
BREAKER_S = 5.0
LENGTHS_CACHE_S = 0.2
#: redis-py turns the answer's prefix into a class of its own; inside a pipeline only the words are left.
OUT_OF_MEMORY = "used memory > 'maxmemory'"

T = TypeVar("T")


class Publisher:
    """Sends hints over one connection; safe for threads; `timeout_s` bounds every wait for Redis."""

    def __init__(self, *, timeout_s: float = FAST_TIMEOUT_S, breaker_s: float = BREAKER_S) -> None:
        self._timeout_s, self._breaker_s = timeout_s, breaker_s
        self.forget()

    def forget(self) -> None:
        """Start afresh without touching what was inherited: a forked child must not use its parent's connection."""
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._closed_until = 0.0
        self._full = False
        self._lengths: dict[str, tuple[float, dict[int, int]]] = {}

    def available(self) -> bool:
        """Whether Redis answered when it was last asked, or may be asked again."""
        return time.monotonic() >= self._closed_until

    def room(self, queue: str, window: int | None = None) -> dict[int, int]:
        """Return how many more messages each list of a queue takes; nothing while Redis is away."""
        read_at, lengths = self._lengths.get(queue, (float("-inf"), {}))
        if not self.available():
            return {}
        if time.monotonic() - read_at > LENGTHS_CACHE_S:
            with self._careful("read the length of its lists") as ready:
                if not ready:
                    return {}
                lengths = self._read_lengths(queue)
            if not self.available():
                return {}
            self._lengths[queue] = (time.monotonic(), lengths)
        most = settings.WINDOW if window is None else window
        return {number: max(0, most - length) for number, length in lengths.items()}

    def send(self, hints: Iterable[Hint]) -> bool:
        """Publish hints in one round trip; return whether Redis took them all."""
        sent = False
        with self._careful("publish") as ready:
            if ready:
                pipe = self._redis().pipeline(transaction=False)
                for hint in hints:
                    pipe.lpush(list_key(settings.REDIS_PREFIX, hint.queue, hint.list), hint.message())
                    self._count(hint)
                pipe.execute()
                sent = True
        return sent

    def read(self, ask: Callable[[redis.Redis], T], *, even_if_away: bool = False) -> T | None:
        """Ask Redis something within the same limits; None means that it did not answer."""
        if even_if_away:
            self._closed_until = 0.0
        answer: T | None = None
        with self._careful("answer") as ready:
            if ready:
                answer = ask(self._redis())
        return answer

    def take_full(self) -> bool:
        """Whether Redis refused something because its memory is full, since this was last asked."""
        full, self._full = self._full, False
        return full

    def _redis(self) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                settings.REDIS_URL,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=None,
            )
        return self._client

    @contextmanager
    def _careful(self, what: str) -> Iterator[bool]:
        if not self.available() or not self._lock.acquire(timeout=self._timeout_s):
            yield False
            return
        try:
            yield True
        except (redis.RedisError, OSError) as error:
            self._trip(what, error)
        finally:
            self._lock.release()

    def _trip(self, what: str, error: BaseException) -> None:
        self._closed_until = time.monotonic() + self._breaker_s
        self._lengths.clear()
        cause = error.__cause__ or error
        self._full = (
            self._full or isinstance(cause, redis.exceptions.OutOfMemoryError) or OUT_OF_MEMORY in str(cause)
        )
        log.warning(
            "Redis did not %s (%s: %s); the keeper will feed what waits", what, type(cause).__name__, cause
        )

    def _read_lengths(self, queue: str) -> dict[int, int]:
        pipe = self._redis().pipeline(transaction=False)
        for number in LISTS:
            pipe.llen(list_key(settings.REDIS_PREFIX, queue, number))
        return dict(zip(LISTS, pipe.execute(), strict=True))

    def _count(self, hint: Hint) -> None:
        if hint.queue in self._lengths:
            self._lengths[hint.queue][1][hint.list] += 1


#: The one that submits use. Redis may be away when this module is imported, so it opens on first use.
fast = Publisher()
os.register_at_fork(after_in_child=fast.forget)
