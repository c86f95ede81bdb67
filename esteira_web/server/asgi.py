"""Django under ASGI with a fixed set of threads: each request is one piece of work on one of them.

Django's own handler gives each ASGI request a new thread, and so a new database connection, and changes between thread
and event loop several times for each request; both cost more than most requests do. Here a fixed number of threads
serve requests, and each keeps its connection (CONN_MAX_AGE). A request borrows a thread from the moment its body has
arrived until its answer is ready, so slow senders and readers hold no thread; a streamed answer borrows one for each
piece. If a body does not arrive with its head, Django first handles the request without it, and the server waits for
the body only if Django has to read it: so a caller without rights is refused at once (`esteira_web.server.bodies`).
Health checks are answered before Django, by path alone: they need no thread for requests, no host name and no account.
METRICS_PORT serves metrics only, and no other port serves them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import IO, Any, cast

from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix
from servestatic.asgi import FileServerASGI
from servestatic.middleware import ServeStaticMiddleware

from esteira.db import ConnectionLost
from esteira.db.orm import answer_within
from esteira.files import CHUNK_BYTES
from esteira_web.server import framing, health, metrics, problems, request_id
from esteira_web.server.bodies import (
    SINK,
    UPLOAD_BYTES,
    Body,
    Left,
    NeedsBody,
    NotYet,
    Refused,
    Sink,
    UnderWay,
    limit_for,
)
from esteira_web.server.problems import RETRY_AFTER_S, Problem
from esteira_web.server.sending import (
    Receive,
    Scope,
    Send,
    refuse,
    send_bytes,
    send_json,
    until_left,
    with_request_id,
)
from esteira_web.server.threads import Busy, Few, Threads

LIVEZ, READYZ = "/livez", "/readyz"
SIGN_INS = ("/login/", "/admin/login/")
#: A request that gets no free thread for this long is answered with 503 and Retry-After.
PATIENCE_S = 5.0
#: At most one in so many threads serves requests without a token or a session, and sign-ins.
STRANGERS = 4
#: The time limit of a request for one statement, and for a lock within it.
STATEMENT_S, LOCK_S = 5.0, 2.0
BUSY = Problem(code="busy", status=503, headers={"Retry-After": str(RETRY_AFTER_S)})
NO_UPGRADE = problems.worded("no-websocket", code="bad-request", status=400, headers={"Connection": "close"})


class Handler(ASGIHandler):
    """Django's handler on the fixed threads; middleware and view run together in one thread."""

    def __init__(self) -> None:
        super().__init__()
        answer_within(STATEMENT_S, LOCK_S)
        self._threads = Threads(settings.WEB_THREADS)
        self._for_strangers = Few(self._threads, max(1, settings.WEB_THREADS // STRANGERS))
        self._under_way = UnderWay()
        self._ready = health.Readiness()
        # Used for its table of files only; as middleware it would take two threads.
        self._assets = ServeStaticMiddleware(_unused)

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await super().__call__(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin1")
        request_id.current.set(request_id.request_id_of(given))
        send = with_request_id(send)
        if found := framing.fault(scope["headers"], scope["http_version"]):
            return await refuse(scope, send, problems.of_status(*found))
        if _port(scope) == settings.METRICS_PORT:
            return await _measured(scope, send)
        if scope["path"] in (LIVEZ, READYZ):
            health_of = self._ready if scope["path"] == READYZ else _alive
            return await send_json(scope, send, *await health_of())
        if b"websocket" in headers.get(b"upgrade", b"").lower():
            return await refuse(scope, send, NO_UPGRADE)
        return await self._find(scope, receive, send)

    async def _find(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a static file, or let Django answer."""
        is_asset = scope["path"].startswith(settings.STATIC_URL)
        if is_asset and (asset := await self._asset(scope["path"])):
            await FileServerASGI(asset)(scope, receive, send)
        else:
            await self._answer(scope, Body(scope, receive), send)

    async def _asset(self, path: str) -> Any:
        if self._assets.autorefresh:
            return await self._threads.run(lambda: self._assets.find_file(path))
        return self._assets.files.get(path)

    async def _answer(self, scope: Scope, body: Body, send: Send) -> None:
        """Let Django answer a request; after the answer, a refused body is read for a while."""
        needed: NeedsBody | None = None
        try:
            if await body.came_at_once():
                return await self._serve(scope, body, send)
            needed = await self._ask_first(scope, send)
            if needed is not None:
                return await self._serve_later(scope, body, send, needed)
        except Left:
            return None
        except Refused as refused:
            await refuse(scope, send, refused.problem)
        except Busy:
            await refuse(scope, send, BUSY)
        finally:
            if needed is not None:
                await self._close(needed.sink)
        return await body.drain()

    async def _serve(self, scope: Scope, body: Body, send: Send) -> None:
        """Let Django answer a request whose body has arrived."""
        work = partial(self._respond, scope, BytesIO(body.content()))
        response = await self._threads_for(scope).run(work, patience_s=PATIENCE_S)
        await self._send(response, send, body.receive)

    def _respond(self, scope: Scope, content: IO[bytes]) -> HttpResponseBase:
        """Let Django answer, in a thread; an answer that is complete is closed in the same turn."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, content)
        response: HttpResponseBase = refusal or self.get_response(cast(HttpRequest, request))
        if not response.streaming:
            response.close()
        return response

    async def _ask_first(self, scope: Scope, send: Send) -> NeedsBody | None:
        """Let Django answer without the body; return its NeedsBody if it has to read the body, None if it answered."""
        said = await self._threads_for(scope).run(partial(self._look, scope), patience_s=PATIENCE_S)
        if isinstance(said, NeedsBody):
            return said
        said["Connection"] = "close"
        await self._send(said, send)
        return None

    def _look(self, scope: Scope) -> HttpResponseBase | NeedsBody:
        try:
            return self._respond(scope, cast(IO[bytes], NotYet()))
        except NeedsBody as needed:
            return needed

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = super().get_response(request)
        except NeedsBody as needed:
            with suppress(*ConnectionLost):  # the next statement will fail again
                needed.caller = _caller(request)
            raise
        return response

    async def _serve_later(self, scope: Scope, body: Body, send: Send, needed: NeedsBody) -> None:
        """Read the body that Django needs, then let Django answer."""
        if needed.sink is None:
            limit = limit_for(needed.caller)
            with self._under_way.room(needed.caller, min(body.said or limit, limit)):
                await body.take(limit)
                return await self._serve(scope, body, send)
        with self._under_way.room(needed.caller, UPLOAD_BYTES):
            await self._pour(body, needed.sink)
            scope[SINK] = needed.sink
            return await self._serve(scope, body, send)

    async def _close(self, sink: Sink | None) -> None:
        if sink is not None:
            with suppress(Busy, *ConnectionLost):  # retention removes the rest
                await self._threads.run(sink.close, patience_s=PATIENCE_S)

    async def _pour(self, body: Body, sink: Sink) -> None:
        async for piece in body.pieces(CHUNK_BYTES):
            try:
                await self._threads.run(partial(sink.feed, piece), patience_s=PATIENCE_S)
            except Exception as error:  # as in the middleware: errors with a problem document are answered
                problem = problems.of(error)
                if problem is None:
                    raise
                raise Refused(problem) from None

    def _threads_for(self, scope: Scope) -> Threads:
        return self._for_strangers if _is_of_a_stranger(scope) else self._threads

    async def _send(self, response: HttpResponseBase, send: Send, receive: Receive | None = None) -> None:
        """Send an answer; a streamed one ends when `receive` reports that the client has closed the connection."""
        if pause_s := getattr(response, "pause_s", 0):
            await asyncio.sleep(pause_s)
        if not isinstance(response, StreamingHttpResponse):
            return await self.send_response(response, send)
        if not response.is_async:
            response.streaming_content = self._pieces(cast(Iterator[bytes], response.streaming_content))
        try:
            sending = self.send_response(response, send)
            await (sending if receive is None else until_left(sending, receive))
        finally:  # if the client has left, the answer is closed nevertheless
            await asyncio.shield(self._threads.run(response.close))

    async def _pieces(self, content: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._threads.run(lambda: next(content, None))) is not None:
            yield piece


async def _alive() -> tuple[int, health.Body]:
    return health.livez()


def _caller(request: HttpRequest) -> str:
    """Return the account of the caller, if the request was authenticated before its body was needed."""
    if account := getattr(getattr(request, "auth", None), "account", ""):  # see `esteira_web.api.auth`
        return str(account)
    user = getattr(request, "user", None)
    return f"user:{user.pk}" if user is not None and user.is_authenticated else ""


def _port(scope: Scope) -> int | None:
    """Return the port of the connection, independent of the request's headers; a socket file has none."""
    port: int | None = (scope.get("server") or (None, None))[1]
    return port


def _is_of_a_stranger(scope: Scope) -> bool:
    """Return whether a request has no credentials; credentials are not checked here, and may be wrong."""
    headers = dict(scope["headers"])
    session = f"{settings.SESSION_COOKIE_NAME}=".encode()
    shows = headers.get(b"authorization") or session in headers.get(b"cookie", b"")
    return scope["path"] in SIGN_INS or not shows


async def _measured(scope: Scope, send: Send) -> None:
    """Answer at the port for metrics, which needs no account and so has nothing but numbers."""
    if scope["path"] == metrics.PATH:
        status, text = await metrics.answer()
        content_type = metrics.CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
        return await send_bytes(scope, send, status, text.encode(), content_type)
    if scope["path"] == LIVEZ:
        return await send_json(scope, send, *health.livez())
    there = problems.worded("metrics-only", code="not-found", status=404, path=metrics.PATH, other=LIVEZ)
    return await refuse(scope, send, there)


async def _unused(request: HttpRequest) -> HttpResponseBase:
    raise AssertionError("the middleware is used for its table of files only")
