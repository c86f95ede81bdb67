"""Answers without Django: a text, JSON or a problem document, sent directly through ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from esteira_web.server import request_id
from esteira_web.server.problems import CONTENT_TYPE, Problem

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def with_request_id(send: Send) -> Send:
    """Wrap `send` so that every answer has the request id."""
    name, value = request_id.HEADER.lower().encode(), request_id.current.get().encode()

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(n, v) for n, v in message["headers"] if n.lower() != name]
            message = {**message, "headers": [*headers, (name, value)]}
        await send(message)

    return send_with_id


async def until_left(sending: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Send an answer, and stop as soon as the client has closed the connection."""
    left, sent = asyncio.ensure_future(receive()), asyncio.ensure_future(sending)
    try:
        await asyncio.wait((left, sent), return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        sent.cancel()
        await asyncio.wait((left, sent))
    if not sent.cancelled():
        sent.result()


async def refuse(scope: Scope, send: Send, problem: Problem) -> None:
    body = problem.body(request_id.current.get())
    await send_json(scope, send, problem.status, body, CONTENT_TYPE, problem.headers)


async def send_json(
    scope: Scope,
    send: Send,
    status: int,
    body: dict[str, Any],
    content_type: str = "application/json",
    headers: Any = (),
) -> None:
    await send_bytes(scope, send, status, json.dumps(body).encode(), content_type, headers)


async def send_bytes(
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
