"""The threads that run synchronous code: a fixed number, each with its own permanent database connection.

A request borrows a thread while Django works on it, and has none while bytes are received or sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """No thread became free in time."""


class Threads:
    """A fixed number of threads for one event loop; the thread that was used last is used next."""

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
        """Return a thread to the others once it is idle: a view may still run after its request was cancelled."""
        loop = asyncio.get_running_loop()
        idle: Future[None] = thread.submit(_nothing)
        idle.add_done_callback(lambda _: _call_soon(loop, self._is_idle, thread))

    def _is_idle(self, thread: ThreadPoolExecutor) -> None:
        self._free.put_nowait(thread)

    async def run(self, work: Callable[[], T], *, patience_s: float | None = None) -> T:
        """Run a piece of work on a borrowed thread."""
        thread = await self.take(patience_s=patience_s)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, copy_context().run, work)
        finally:
            self.give_back(thread)


class Few(Threads):
    """At most `count` of the threads of another object at once; waiting requests are served in order."""

    def __init__(self, threads: Threads, count: int) -> None:
        super().__init__(0)
        self._threads, self._places = threads, asyncio.Semaphore(count)

    async def take(self, *, patience_s: float | None = None) -> ThreadPoolExecutor:
        try:
            async with asyncio.timeout(patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            return await self._threads.take(patience_s=patience_s)
        except BaseException:
            self._places.release()
            raise

    def _is_idle(self, thread: ThreadPoolExecutor) -> None:
        self._places.release()
        self._threads._is_idle(thread)


class Lane(Executor):
    """The executor for the synchronous code of one request: a borrowed thread, or none while bytes are sent."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._thread: ThreadPoolExecutor | None = None

    async def take(self, *, patience_s: float | None = None) -> None:
        if self._thread is None:
            self._thread = await self._threads.take(patience_s=patience_s)

    async def take_again(self) -> None:
        """Take a thread to close the answer; if the client disconnects meanwhile, both steps still finish."""
        taking = asyncio.ensure_future(self.take())
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            await taking
            raise

    def give_back(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._threads.give_back(thread)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        assert self._thread is not None, "synchronous code runs before the body or after the answer"
        return self._thread.submit(fn, *args, **kwargs)


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[T], None], what: T) -> None:
    with suppress(RuntimeError):  # the server has stopped meanwhile
        loop.call_soon_threadsafe(work, what)


def _nothing() -> None:
    return None
