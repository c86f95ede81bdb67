"""Limits for the bodies of requests as they arrive: their size, their speed, and how many at once.

A client needs an account before the server reads more than 64 KiB: Django handles the request without the body, and
raises `NeedsBody` where it has to read it. Then the server reads the rest, into memory up to 8 MiB, or piece by piece
into a sink that stores it. A refused request is answered at once; the bytes that the client still sends are read for a
while and dropped, because many clients read the answer only after they have sent the whole body.
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

from esteira_web.server.problems import RETRY_AFTER_S, Problem, worded

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

#: The size of a body that needs no account, and the time that it has to arrive before Django starts without it.
SMALL, AT_ONCE_S = 64 * 1024, 0.05
#: The longest pause within a body; the longest time for a whole body, and for an upload.
SILENCE_S, BODY_S, UPLOAD_S = 10.0, 60.0, 600.0
#: Memory for all bodies in progress in one process, for those of one caller, and for one upload.
PROCESS_BYTES, CALLER_BYTES, UPLOAD_BYTES = 48 * 1024**2, 16 * 1024**2, 1024**2
#: The limits for reading a refused body: bytes, time, the longest pause, and the rate of all refused bodies together.
DRAIN_BYTES, DRAIN_S, DRAIN_SILENCE_S, DRAIN_PER_S = 110 * 1024**2, 20.0, 2.0, 64 * 1024**2

_draining = asyncio.Lock()


class Refused(Exception):
    """The body is refused; the answer has the reason, and the connection ends with it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.shown)
        self.problem = replace(problem, headers={**problem.headers, "Connection": "close"})


class Left(Exception):
    """The client has closed the connection."""


#: The key in the scope of a request under which the server stores the sink that has taken its body.
SINK = "esteira.sink"


class Sink(Protocol):
    """Stores a body piece by piece, on a thread."""

    def feed(self, piece: bytes) -> None: ...
    def close(self) -> None: ...


class NeedsBody(BaseException):
    """Django has to read a body that has not arrived. This is no `Exception`, so that no handler catches it.

    `caller` is the account of the request, empty without a sign-in; `sink`, if there is one, stores the body instead.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        super().__init__()
        self.sink = sink
        self.caller = ""


class NotYet:
    """The placeholder for the body of a request; to read it raises NeedsBody."""

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
        #: The client waits for `100 Continue`, which the server sends when the body is read for the first time.
        self._asks_first = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive, self._began = receive, time.monotonic()
        self._held: list[bytes] = []
        self.got = 0

    async def came_at_once(self) -> bool:
        """Return whether the whole body arrives at once; reads at most what needs no account."""
        if self.whole or self._asks_first:
            return self.whole
        with suppress(TimeoutError):
            async with asyncio.timeout(AT_ONCE_S):
                while not self.whole and self.got <= SMALL:
                    self._held.append(await self._piece())
        return self.whole and self.got <= SMALL

    async def take(self, limit: int) -> None:
        """Read the whole body; raises Refused if it is larger than `limit`, or too slow."""
        self._refuse_over(limit)
        while not self.whole:
            self._held.append(await self._next(BODY_S))
            self._refuse_over(limit)

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about `size`, as they arrive; raises Refused if it is too slow."""
        while not self.whole or self._held:
            while not self.whole and sum(map(len, self._held)) < size:
                self._held.append(await self._next(UPLOAD_S))
            piece, self._held = b"".join(self._held), []
            yield piece

    def content(self) -> bytes:
        """Return what has arrived, once."""
        held, self._held = b"".join(self._held), []
        return held

    async def receive(self) -> Message:
        """Return the next event of the connection after the body: it was closed."""
        while (message := await self._receive())["type"] == "http.request":
            pass  # the empty body of a request without a body
        return message

    async def drain(self) -> None:
        """Read and drop the bytes that the client still sends, within limits."""
        if self._asks_first and not self.got:
            return  # the client never got `100 Continue`, so it sends no body
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
            wording, seconds = ("body-silent", SILENCE_S) if left > SILENCE_S else ("body-slow", within_s)
            raise Refused(worded(wording, code="too-slow", status=408, seconds=seconds)) from None

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
            wording = "body-too-large" if limit >= 1024**2 else "body-too-large.stranger"
            raise Refused(worded(wording, code="too-large", status=413, limit=limit))


class UnderWay:
    """The memory that arriving bodies use in this process; there is one event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    @contextmanager
    def room(self, caller: str, count: int) -> Iterator[None]:
        """Reserve memory for so many bytes; raises Refused if one caller, or all together, would use too much."""
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
    """Return the size limit of a body in memory."""
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE) if caller else SMALL
