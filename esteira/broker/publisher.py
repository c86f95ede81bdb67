"""Send hints of committed rows to Redis: best effort, bounded in time, never required.

A request waits for Redis at most 0.25 s at a time, and after any error not at all for 5 s: the breaker is open and the
keeper publishes the stored jobs. The keeper finds every hint that is lost here, so this module raises no error.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from django.conf import settings

from esteira.broker.hint import LISTS, Hint, behind_key, list_key
from esteira.broker.lists import raise_errors

log = logging.getLogger("esteira.broker")

FAST_TIMEOUT_S = 0.25
BREAKER_S = 5.0
LENGTHS_CACHE_S = 0.2
#: The keeper's flag on a list expires after this time; until then new jobs go behind the waiting ones.
BEHIND_S = 3
#: redis-py turns the answer's prefix into an exception class; inside a pipeline only the text is left.
OUT_OF_MEMORY = "used memory > 'maxmemory'"

T = TypeVar("T")


@dataclass(slots=True)
class _Lists:
    """The lists of a queue when they were read: their lengths, and which of them have due jobs waiting."""

    read_at: float
    lengths: dict[int, int]
    behind: frozenset[int]


class Publisher:
    """Sends hints over one connection; safe for threads; `timeout_s` bounds every wait for Redis."""

    def __init__(self, *, timeout_s: float = FAST_TIMEOUT_S, breaker_s: float = BREAKER_S) -> None:
        self._timeout_s, self._breaker_s = timeout_s, breaker_s
        self.forget()

    def forget(self) -> None:
        """Reset without using anything inherited: a forked child must not use its parent's connection."""
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        # A connection of redis-py, which has no public name for the common type of its connections.
        self._link: Any = None
        self._closed_until = 0.0
        self._full = False
        self._lengths: dict[str, _Lists] = {}
        self._ours: dict[tuple[str, int], int] = {}

    def available(self) -> bool:
        """Return whether Redis answered the last command, or may be tried again."""
        return time.monotonic() >= self._closed_until

    def room(self, queue: str, window: int | None = None) -> dict[int, int]:
        """Return how many more messages each list of a queue takes; nothing while Redis is unavailable."""
        lists = self._lists(queue)
        most = settings.ESTEIRA_WINDOW if window is None else window
        return self._room(queue, lists, most) if lists else {}

    def open_to_new(self, queue: str) -> set[int]:
        """Return the lists that take hints of new jobs: those with room and without waiting jobs."""
        lists = self._lists(queue)
        room = self._room(queue, lists, settings.ESTEIRA_WINDOW) if lists else {}
        return {number for number, free in room.items() if free > 0 and lists and number not in lists.behind}

    def _room(self, queue: str, lists: _Lists, most: int) -> dict[int, int]:
        return {
            number: max(0, most - min(length, self._ours.get((queue, number), length)))
            for number, length in lists.lengths.items()
        }

    def say_behind(self, queue: str, lists: Iterable[int]) -> None:
        """Set a short-lived flag for all submitters: due jobs wait for these lists; without any, remove it."""
        key, said = behind_key(settings.ESTEIRA_REDIS_PREFIX, queue), ",".join(map(str, lists))
        self.read(lambda client: client.set(key, said, ex=BEHIND_S) if said else client.delete(key))

    def say_ours(self, queue: str, ours: dict[int, int]) -> None:
        """Store how many messages are hints in those lists of a queue that also hold foreign messages."""
        self._ours = {key: n for key, n in self._ours.items() if key[0] != queue}
        self._ours.update({(queue, number): n for number, n in ours.items()})

    def send(self, hints: Iterable[Hint]) -> bool:
        """Publish hints in one round trip; return whether Redis took them all."""
        sent = False
        with self._careful("accept hints") as ready:
            if ready:
                messages = defaultdict[str, list[str]](list)
                for hint in hints:
                    key = list_key(settings.ESTEIRA_REDIS_PREFIX, hint.queue, hint.list)
                    messages[key].append(hint.message())
                    self._count(hint)
                answers = self._ask([("LPUSH", key, *some) for key, some in messages.items()])
                sent = not raise_errors(answers)
                if not sent:
                    log.warning(
                        "a key in Redis is not a list; the keeper will delete it, and publish the waiting jobs"
                    )
        return sent

    def read(self, ask: Callable[[redis.Redis], T], *, even_if_away: bool = False) -> T | None:
        """Send Redis a command within the same limits; None means that it did not answer."""
        if even_if_away:
            self._closed_until = 0.0
        answer: T | None = None
        with self._careful("answer") as ready:
            if ready:
                answer = ask(self._redis())
        return answer

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Send nothing during the block, as while Redis is unavailable; for tests."""
        before, self._closed_until = self._closed_until, math.inf
        try:
            yield
        finally:
            self._closed_until = before

    def take_full(self) -> bool:
        """Return whether Redis refused a command since the last call because its memory is full."""
        full, self._full = self._full, False
        return full

    def _redis(self) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                settings.ESTEIRA_REDIS_URL,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=None,
            )
        return self._client

    def _ask(self, commands: Sequence[tuple[str, ...]]) -> list[object]:
        """Send commands in one round trip; return their answers, among them a command's own error.

        The client's pipeline does the same in twice the time.
        """
        link = self._open_link()
        try:
            link.send_packed_command(link.pack_commands(commands))
            return [_answer(link) for _ in commands]
        except BaseException:
            # Also after a time limit: an unread answer would be taken for that of the next command.
            link.disconnect()
            raise

    def _open_link(self) -> Any:
        """Return the open connection; one that the server has closed meanwhile is opened again."""
        if self._link is None:
            self._link = self._redis().connection_pool.make_connection()
        with suppress(redis.RedisError, OSError):
            if self._link.is_connected and not self._link.can_read():
                return self._link
        self._link.disconnect()
        self._link.connect()
        return self._link

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
            "Redis did not %s (%s: %s); the keeper will publish the waiting jobs",
            what,
            type(cause).__name__,
            cause,
        )

    def _lists(self, queue: str) -> _Lists | None:
        if not self.available():
            return None
        lists = self._lengths.get(queue)
        if lists is None or time.monotonic() - lists.read_at > LENGTHS_CACHE_S:
            lists = None
            with self._careful("return the lengths of its lists") as ready:
                if ready:
                    lists = self._lengths[queue] = self._read_lists(queue)
        return lists

    def _read_lists(self, queue: str) -> _Lists:
        """Read them in one round trip; a list of a wrong type is left out, so it takes no hints."""
        prefix = settings.ESTEIRA_REDIS_PREFIX
        answers = self._ask(
            [
                *(("LLEN", list_key(prefix, queue, number)) for number in LISTS),
                ("GET", behind_key(prefix, queue)),
            ]
        )
        raise_errors(answers)
        *lengths, behind = answers
        return _Lists(
            read_at=time.monotonic(),
            lengths={n: a for n, a in zip(LISTS, lengths, strict=True) if isinstance(a, int)},
            behind=_numbers(behind),
        )

    def _count(self, hint: Hint) -> None:
        if hint.queue in self._lengths and hint.list in self._lengths[hint.queue].lengths:
            self._lengths[hint.queue].lengths[hint.list] += 1
        if (hint.queue, hint.list) in self._ours:
            self._ours[hint.queue, hint.list] += 1


def _answer(link: Any) -> object:
    try:
        return link.read_response()
    except redis.ResponseError as error:
        return error


def _numbers(said: object) -> frozenset[int]:
    """Read the keeper's flag; any other value means that there is none."""
    return frozenset(n for n in LISTS if isinstance(said, bytes) and str(n).encode() in said.split(b","))


#: The publisher that submits use. Redis may be unavailable when this module is imported, so it connects on first use.
fast = Publisher()
os.register_at_fork(after_in_child=fast.forget)
