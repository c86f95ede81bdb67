"""Bodies of requests as they arrive: how much of them, how fast, and how many at once.

Whoever sends is asked for an account before more than 64 KiB are taken: Django answers without the body, and says
`NeedsBody` where it would have to read it. Then the rest is taken, in memory up to 8 MiB, or piece by piece into a sink
that stores it. What is refused is answered at once; what its sender goes on writing meanwhile is read for a while and
thrown away, because many clients look at the answer only when they have written all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn, Protocol

from django.conf import settings

from esteira_web.server.problems import RETRY_AFTER_S, Problem

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

#: So much of a body anybody may send, and so long its arrival is waited for before Django is asked without it.
SMALL, AT_ONCE_S = 64 * 1024, 0.05
#: A body that says nothing for the first time, or takes longer than the others, is given up.
SILENCE_S, BODY_S, UPLOAD_S = 10.0, 60.0, 600.0
#: Memory that bodies under way may take in one process, and those of one caller; an upload takes a part of it.
PROCESS_BYTES, CALLER_BYTES, UPLOAD_BYTES = 48 * 1024**2, 16 * 1024**2, 1024**2
#: What is read of a refused body, for how long, and how fast all refused ones together: others have work to do.
DRAIN_BYTES, DRAIN_S, DRAIN_SILENCE_S, DRAIN_PER_S = 110 * 1024**2, 20.0, 2.0, 64 * 1024**2

_draining = asyncio.Lock()


class Refused(Exception):
    """The body is not taken; the answer says why, and the connection ends with it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.shown)
        self.problem = replace(problem, headers={**problem.headers, "Connection": "close"})


class Left(Exception):
    """The client has gone."""


#: Where the server puts what has taken a body already, in the scope of its request.
SINK = "esteira.sink"


class Sink(Protocol):
    """Takes a body piece by piece, on a thread."""

    def feed(self, piece: bytes) -> None: ...
    def close(self) -> None: ...


class NeedsBody(BaseException):
    """Django wants to read a body that has not come; whatever catches `Exception` must let it pass.

    `caller` is the account that asks, empty if nobody is signed in; `sink`, if there is one, takes the body instead.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        super().__init__()
        self.sink = sink
        self.caller = ""


class NotYet:
    """Stands where a request's body would be."""

    def read(self, *_: Any) -> NoReturn:
        raise NeedsBody

    readline = __iter__ = read

    def close(self) -> None:
        return None


class Body:
    """The body of one request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope["headers"])
        said = headers.get(b"content-length", b"")
        self.said = int(said) if said.isdigit() else 0
        self.whole = not self.said and b"transfer-encoding" not in headers
        #: A client that asks before it sends; it is told to go on by the first look at its body.
        self._asks_first = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive, self._began = receive, time.monotonic()
        self._held: list[bytes] = []
        self._given = False
        self.got = 0

    async def came_at_once(self) -> bool:
        """Whether all of it is here, or comes within a moment; takes what anybody may send."""
        if self.whole or self._asks_first:
            return self.whole
        with suppress(TimeoutError):
            async with asyncio.timeout(AT_ONCE_S):
                while not self.whole and self.got <= SMALL:
                    self._held.append(await self._piece())
        return self.whole and self.got <= SMALL

    async def take(self, limit: int) -> None:
        """Wait for all of it; raises Refused when it is larger than `limit`, or too slow."""
        self._refuse_over(limit)
        while not self.whole:
            self._held.append(await self._next(BODY_S))
            self._refuse_over(limit)

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """Yield it in pieces of about `size`, as they come; raises Refused when it is too slow."""
        while not self.whole or self._held:
            while not self.whole and sum(map(len, self._held)) < size:
                self._held.append(await self._next(UPLOAD_S))
            piece, self._held = b"".join(self._held), []
            yield piece

    async def receive(self) -> Message:
        """Give Django what was taken, then what happens to the connection."""
        if self._given:
            while (message := await self._receive())["type"] == "http.request":
                pass  # the empty body of a request that has none
            return message
        self._given = True
        held, self._held = b"".join(self._held), []
        return {"type": "http.request", "body": held, "more_body": False}

    async def drain(self) -> None:
        """Read and forget what is still sent, within bounds."""
        if self._asks_first and not self.got:
            return  # it was never told to go on
        self._held = []
        began = time.monotonic()
        with suppress(TimeoutError, Left):
            while not self.whole and self.got < DRAIN_BYTES and time.monotonic() - began < DRAIN_S:
                async with asyncio.timeout(DRAIN_SILENCE_S):
                    piece = await self._piece()
                async with _draining:
                    await asyncio.sleep(len(piece) / DRAIN_PER_S)

    async def _next(self, within_s: float) -> bytes:
        left = within_s - (time.monotonic() - self._began)
        try:
            async with asyncio.timeout(min(SILENCE_S, max(left, 0))):
                return await self._piece()
        except TimeoutError:
            said = f"{SILENCE_S:g} s without a byte" if left > SILENCE_S else f"{within_s:g} s in all"
            detail = f"The body did not arrive in time: {said} are too long."
            raise Refused(Problem(code="too-slow", status=408, detail=detail)) from None

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Left
        piece: bytes = message.get("body", b"")
        self.got += len(piece)
        self.whole = not message.get("more_body", False)
        return piece

    def _refuse_over(self, limit: int) -> None:
        if max(self.said, self.got) > limit:
            size = (
                f"{limit // 1024**2} MiB" if limit >= 1024**2 else f"{limit // 1024} KiB without an account"
            )
            detail = f"The body is larger than the limit of {size}."
            raise Refused(Problem(code="too-large", status=413, detail=detail))


class UnderWay:
    """What bodies that arrive take of a process's memory; in one event loop, so without a lock."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    @contextmanager
    def room(self, caller: str, count: int) -> Iterator[None]:
        """Keep room for so many bytes; raises Refused when a caller, or all together, take too much."""
        again = {"Retry-After": str(RETRY_AFTER_S)}
        if caller and self._of[caller] + count > CALLER_BYTES:
            raise Refused(Problem(code="too-much-at-once", status=429, headers=again))
        if self._of.total() + count > PROCESS_BYTES:
            raise Refused(Problem(code="busy", status=503, headers=again))
        self._of[caller] += count
        try:
            yield
        finally:
            self._of[caller] -= count
            if not self._of[caller]:
                del self._of[caller]


def limit_for(caller: str) -> int:
    """Return how large a body may be that is held in memory."""
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE) if caller else SMALL
