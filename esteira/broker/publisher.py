"""From committed rows to hints in Redis: best effort, bounded in time, never needed.

A request waits for Redis at most 0.25 s at a time, and after any error not at all for 5 s: the breaker is open and the
keeper publishes what was stored. Whatever is lost here is found by the keeper, so no error leaves this module.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import redis
from django.conf import settings

from esteira.broker.hint import LISTS, Hint, behind_key, list_key
from esteira.broker.lists import is_wrong_type, raise_errors

log = logging.getLogger("esteira.broker")

FAST_TIMEOUT_S = 0.25
BREAKER_S = 5.0
LENGTHS_CACHE_S = 0.2
#: For so long after the keeper's last word new jobs go behind those that it says are waiting.
BEHIND_S = 3
#: redis-py turns the answer's prefix into a class of its own; inside a pipeline only the words are left.
OUT_OF_MEMORY = "used memory > 'maxmemory'"

T = TypeVar("T")


@dataclass(slots=True)
class _Lists:
    """The lists of a queue as they were read: how long they are, and behind which of them due jobs wait."""

    read_at: float
    lengths: dict[int, int]
    behind: frozenset[int]


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
        self._lengths: dict[str, _Lists] = {}
        self._ours: dict[tuple[str, int], int] = {}

    def available(self) -> bool:
        """Whether Redis answered when it was last asked, or may be asked again."""
        return time.monotonic() >= self._closed_until

    def room(self, queue: str, window: int | None = None) -> dict[int, int]:
        """Return how many more messages each list of a queue takes; nothing while Redis is away."""
        lists = self._lists(queue)
        most = settings.WINDOW if window is None else window
        return {
            number: max(0, most - min(length, self._ours.get((queue, number), length)))
            for number, length in (lists.lengths if lists else {}).items()
        }

    def open_to_new(self, queue: str) -> set[int]:
        """Return the lists of a queue that take hints of new jobs: those with room, and with nobody waiting for it."""
        room = self.room(queue)
        lists = self._lists(queue)
        return {number for number, free in room.items() if free > 0 and lists and number not in lists.behind}

    def say_behind(self, queue: str, lists: Iterable[int]) -> None:
        """Tell every submitter for a few seconds that due jobs wait for these lists, or that none does any more."""
        key, said = behind_key(settings.REDIS_PREFIX, queue), ",".join(map(str, lists))
        self.read(lambda client: client.set(key, said, ex=BEHIND_S) if said else client.delete(key))

    def say_ours(self, queue: str, ours: dict[int, int]) -> None:
        """Remember how many messages are hints in those lists of a queue that hold others as well."""
        self._ours = {key: n for key, n in self._ours.items() if key[0] != queue}
        self._ours.update({(queue, number): n for number, n in ours.items()})

    def send(self, hints: Iterable[Hint]) -> bool:
        """Publish hints in one round trip; return whether Redis took them all."""
        sent = False
        with self._careful("publish") as ready:
            if ready:
                pipe = self._redis().pipeline(transaction=False)
                for hint in hints:
                    pipe.lpush(list_key(settings.REDIS_PREFIX, hint.queue, hint.list), hint.message())
                    self._count(hint)
                sent = not raise_errors(pipe.execute(raise_on_error=False))
                if not sent:
                    log.warning(
                        "a list in Redis is no list; the keeper will replace it, and publish what waits"
                    )
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
            "Redis did not %s (%s: %s); the keeper will publish what waits", what, type(cause).__name__, cause
        )

    def _lists(self, queue: str) -> _Lists | None:
        if not self.available():
            return None
        lists = self._lengths.get(queue)
        if lists is None or time.monotonic() - lists.read_at > LENGTHS_CACHE_S:
            lists = None
            with self._careful("read the length of its lists") as ready:
                if ready:
                    lists = self._lengths[queue] = self._read_lists(queue)
        return lists

    def _read_lists(self, queue: str) -> _Lists:
        """Read them in one round trip; a list of a wrong type is left out, and so takes nothing."""
        prefix = settings.REDIS_PREFIX
        pipe = self._redis().pipeline(transaction=False)
        for number in LISTS:
            pipe.llen(list_key(prefix, queue, number))
        pipe.get(behind_key(prefix, queue))
        answers = pipe.execute(raise_on_error=False)
        raise_errors(answers)
        *lengths, behind = answers
        return _Lists(
            read_at=time.monotonic(),
            lengths={n: a for n, a in zip(LISTS, lengths, strict=True) if not is_wrong_type(a)},
            behind=_numbers(behind),
        )

    def _count(self, hint: Hint) -> None:
        if hint.queue in self._lengths and hint.list in self._lengths[hint.queue].lengths:
            self._lengths[hint.queue].lengths[hint.list] += 1
        if (hint.queue, hint.list) in self._ours:
            self._ours[hint.queue, hint.list] += 1


def _numbers(said: object) -> frozenset[int]:
    """Read the keeper's word; whatever else lies there says nothing."""
    return frozenset(n for n in LISTS if isinstance(said, bytes) and str(n).encode() in said.split(b","))


#: The one that submits use. Redis may be away when this module is imported, so it opens on first use.
fast = Publisher()
os.register_at_fork(after_in_child=fast.forget)
