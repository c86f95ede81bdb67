"""Health checks. `/livez`: this process serves requests. `/readyz`: it can accept jobs, so send it requests.

Ready means that the database answers and no migration of this release is pending. Redis is not needed to accept jobs:
if it is unavailable, the answer is 200 with a warning. Each check has a limit of one second; a check that hangs blocks
its own thread only, not the next probe and never a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse

from esteira import migration_lock
from esteira.db import ConnectionLost, PrivateConnection

TIMEOUT_S = 1.0
REDIS_TIMEOUT_S = 0.5
#: An answer is reused for so long.
KEPT_S = 0.5
NO_ANSWER = "fail: no answer within a second"

Body = dict[str, Any]


def livez() -> tuple[int, Body]:
    return 200, {"status": "pass"}


def readyz() -> tuple[int, Body]:
    """Check the services that accepting a job needs; returns within about a second."""
    running = {check.name: check.begin() for check in CHECKS}
    wait(running.values(), timeout=TIMEOUT_S)
    return _answer_of(running)


class Readiness:
    """The same in an event loop, without a thread of its own: simultaneous requests share one check and its answer."""

    def __init__(self) -> None:
        self._answer: asyncio.Task[tuple[int, Body]] | None = None
        self._made = 0.0

    async def __call__(self) -> tuple[int, Body]:
        answer = self._answer
        if answer is None or (answer.done() and time.monotonic() - self._made > KEPT_S):
            answer = self._answer = asyncio.create_task(self._ask())
        return await asyncio.shield(answer)

    async def _ask(self) -> tuple[int, Body]:
        running = {check.name: check.begin() for check in CHECKS}
        await within(TIMEOUT_S, *running.values())
        self._made = time.monotonic()
        return _answer_of(running)


async def within(seconds: float, *running: Future[Any]) -> None:
    """Wait until the futures are done, but not longer than `seconds`."""
    await asyncio.wait([asyncio.wrap_future(one) for one in running], timeout=seconds)


def _answer_of(running: dict[str, Future[str]]) -> tuple[int, Body]:
    checks = {name: future.result() if future.done() else NO_ANSWER for name, future in running.items()}
    failed = checks["database"] != "pass"
    status = "fail" if failed else "pass" if checks["redis"] == "pass" else "warn"
    return 503 if failed else 200, {"status": status, "checks": checks}


class Check:
    """One check in one thread; a probe that comes while it runs waits for that answer instead of checking again."""

    def __init__(self, name: str, ask: Callable[[], str]) -> None:
        self.name, self._ask = name, ask
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"readyz-{name}")
        self._running: Future[str] | None = None

    def begin(self) -> Future[str]:
        if self._running is None or self._running.done():
            self._running = self._thread.submit(self._ask)
        return self._running


class Database:
    """Keeps a private connection; checks for pending migrations until there are none."""

    def __init__(self) -> None:
        self._core = PrivateConnection("readyz", timeout_s=TIMEOUT_S)
        self._migrated = False

    def __call__(self) -> str:
        try:
            return self._look()
        except ConnectionLost:
            pass  # the kept connection may have been broken for a long time
        try:
            return self._look()
        except ConnectionLost:
            return "fail: does not answer"

    def _look(self) -> str:
        if self._migrated:
            self._core.fetch("SELECT 1")
            return "pass"
        pending = migration_lock.pending(self._core)
        self._migrated = not pending
        return f"fail: {len(pending)} migrations are pending" if pending else "pass"


def _redis() -> str:
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=None,
        ) as client:
            client.ping()
    except redis.RedisError:
        return "warn: does not answer; jobs are accepted and wait"
    return "pass"


REDIS = Check("redis", _redis)
CHECKS = (Check("database", Database()), REDIS)
ANSWERS: dict[str, Callable[[], tuple[int, Body]]] = {"/livez": livez, "/readyz": readyz}


@login_not_required
def view(request: HttpRequest) -> JsonResponse:
    """Answer under another server than `esteira_web.server.asgi`, which answers before Django does."""
    status, body = ANSWERS[request.path_info]()
    return JsonResponse(body, status=status)
