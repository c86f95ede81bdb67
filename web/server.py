"""Django under ASGI, with threads that are kept: what this changes is where synchronous code runs, nothing else.

Django gives each ASGI request a new thread, and with it a new database connection, which costs more than most requests
do. Here a fixed number of threads serve, and each keeps its connection (CONN_MAX_AGE). A request borrows one from the
moment its body has arrived until its answer is ready, so slow senders and readers hold none; a streamed answer borrows
one for each piece. Health is answered before Django, by path alone: it needs no thread of a request, no host name and
no account. What arrives at METRICS_PORT gets metrics and nothing else, and nobody gets them elsewhere. Bodies over
their limit are refused as they arrive, before they fill the disk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from servestatic.asgi import FileServerASGI
from servestatic.middleware import ServeStaticMiddleware

from esteira.files import MAX_BYTES
from esteira.orm import answer_within
from web import health, metrics
from web.edge import request_id_of
from web.problems import CONTENT_TYPE, RETRY_AFTER_S, Problem

T = TypeVar("T")
Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOADS = "/api/v1/files"
LIVEZ = "/livez"
#: What multipart adds around a file.
MULTIPART_BYTES = 64 * 1024
#: A request that finds no free thread for this long is told to come again.
PATIENCE_S = 5.0
#: What a request may wait for the database in one statement, and in it for somebody's lock.
STATEMENT_S, LOCK_S = 5.0, 2.0


class TooMuch(Exception):
    """The body is over its limit, which is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than the limit of {limit // 1024**2} MiB.")


class Busy(Exception):
    """No thread became free in time."""


class Threads:
    """A fixed number of threads, the one that was used last goes first; for one event loop."""

    def __init__(self, count: int) -> None:
        self._free: asyncio.LifoQueue[ThreadPoolExecutor] = asyncio.LifoQueue()
        for _ in range(count):
            self._free.put_nowait(ThreadPoolExecutor(1, thread_name_prefix="request"))

    async def take(self, *, patience_s: float | None = None) -> ThreadPoolExecutor:
        try:
            async with asyncio.timeout(patience_s):
                return await self._free.get()
        except TimeoutError:
            raise Busy from None

    def give_back(self, thread: ThreadPoolExecutor) -> None:
        """Let others have a thread once it is idle: a request may be gone while its view still runs."""
        loop = asyncio.get_running_loop()
        idle: Future[None] = thread.submit(_nothing)
        idle.add_done_callback(lambda _: _call_soon(loop, self._free.put_nowait, thread))

    async def run(self, work: Callable[[], T]) -> T:
        """Run a piece of work on a borrowed thread."""
        thread = await self.take()
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        finally:
            self.give_back(thread)


class Lane(Executor):
    """What one request runs its synchronous code on: a borrowed thread, or none while bytes are sent."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._thread: ThreadPoolExecutor | None = None

    async def take(self, *, patience_s: float | None = None) -> None:
        if self._thread is None:
            self._thread = await self._threads.take(patience_s=patience_s)

    def give_back(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._threads.give_back(thread)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        assert self._thread is not None, "synchronous code runs before the body or after the answer"
        return self._thread.submit(fn, *args, **kwargs)


_lane: ContextVar[Lane] = ContextVar("web.server.lane")


class Handler(ASGIHandler):
    """Django's handler on kept threads; middleware and view run in one go, in one thread."""

    def __init__(self) -> None:
        super().__init__()
        answer_within(STATEMENT_S, LOCK_S)
        self._threads = Threads(settings.WEB_THREADS)
        self._assets = ServeStaticMiddleware(
            _unused
        )  # reads its settings; as middleware it would cost two threads

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await super().__call__(scope, receive, send)
        if _port(scope) == settings.METRICS_PORT:
            return await _measured(scope, send)
        if scope["path"] in health.ANSWERS:
            status, body = await asyncio.to_thread(health.ANSWERS[scope["path"]])
            return await _send_json(scope, send, status, body)
        if scope["path"].startswith(settings.STATIC_URL) and (asset := await self._asset(scope["path"])):
            await FileServerASGI(asset)(scope, receive, send)
            return None
        try:
            await self._serve(scope, _limited(scope, receive), send)
        except TooMuch as error:
            closed = {"Connection": "close"}  # the rest of the body is not read
            await _refuse(
                scope, send, Problem(code="too-large", status=413, detail=str(error), headers=closed)
            )
        except Busy:
            await _refuse(
                scope, send, Problem(code="busy", status=503, headers={"Retry-After": str(RETRY_AFTER_S)})
            )

    async def _asset(self, path: str) -> Any:
        if self._assets.autorefresh:
            return await asyncio.to_thread(self._assets.find_file, path)
        return self._assets.files.get(path)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        lane = Lane(self._threads)
        _lane.set(lane)
        try:
            async with ThreadSensitiveContext(executor=lane):
                await self.handle(scope, receive, send)
        finally:
            lane.give_back()

    async def read_body(self, receive: Receive) -> Any:
        body = await super().read_body(receive)
        await _lane.get().take(patience_s=PATIENCE_S)
        return body

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response)(request)

    async def send_response(self, response: HttpResponseBase, send: Send) -> None:
        lane = _lane.get()
        lane.give_back()
        try:
            if isinstance(response, StreamingHttpResponse) and not response.is_async:
                response.streaming_content = self._pieces(cast(Iterator[bytes], response.streaming_content))
            await super().send_response(response, send)
        finally:
            await lane.take()

    async def _pieces(self, content: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._threads.run(lambda: next(content, None))) is not None:
            yield piece


def _port(scope: Scope) -> int | None:
    """Return the port that the connection came in by, whatever the request says; a socket file has none."""
    port: int | None = (scope.get("server") or (None, None))[1]
    return port


async def _measured(scope: Scope, send: Send) -> None:
    """Answer at the port for metrics: it asks for no account, so there is nothing but numbers."""
    if scope["path"] == metrics.PATH:
        status, text = await asyncio.to_thread(metrics.answer)
        content_type = metrics.CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
        return await _send(scope, send, status, text.encode(), content_type)
    if scope["path"] == LIVEZ:
        return await _send_json(scope, send, *health.livez())
    there = f"This port has {metrics.PATH} and {LIVEZ} only."
    return await _refuse(scope, send, Problem(code="not-found", status=404, detail=there))


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Refuse a body that says, or turns out, to be over its limit."""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if scope["path"] == UPLOADS:
        limit = MAX_BYTES + MULTIPART_BYTES
    said = dict(scope["headers"]).get(b"content-length", b"0")
    if said.isdigit() and int(said) > limit:
        raise TooMuch(limit)
    got = 0

    async def receive_and_count() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > limit:
            raise TooMuch(limit)
        return message

    return receive_and_count


async def _refuse(scope: Scope, send: Send, problem: Problem) -> None:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin1")
    body = problem.body(request_id_of(given))
    await _send_json(scope, send, problem.status, body, CONTENT_TYPE, problem.headers)


async def _send_json(
    scope: Scope,
    send: Send,
    status: int,
    body: dict[str, Any],
    content_type: str = "application/json",
    headers: Any = (),
) -> None:
    await _send(scope, send, status, json.dumps(body).encode(), content_type, headers)


async def _send(
    scope: Scope, send: Send, status: int, content: bytes, content_type: str, headers: Any = ()
) -> None:
    told = {
        "Content-Type": content_type,
        "Content-Length": str(len(content)),
        "Cache-Control": "no-store",
        **dict(headers),
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[T], None], what: T) -> None:
    with suppress(RuntimeError):  # the server has stopped meanwhile
        loop.call_soon_threadsafe(work, what)


def _nothing() -> None:
    return None


async def _unused(request: HttpRequest) -> HttpResponseBase:
    raise AssertionError("only its table of files is used")
