"""The threads that run synchronous code: a fixed number, each with its own permanent database connection.

A request borrows a thread while Django works on it, and has none while bytes are received or sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """No thread became free in time."""


class Threads:
    """A fixed number of threads for one event loop; the thread that was used last is used next."""

    def __init__(self, count: int) -> None:
        self._free = [ThreadPoolExecutor(1, thread_name_prefix="request") for _ in range(count)]
        #: The requests that wait for a thread, in order; while a thread is free, none waits.
        self._waiting: deque[asyncio.Future[ThreadPoolExecutor]] = deque()

    async def take(self, *, patience_s: float | None = None) -> ThreadPoolExecutor:
        """Borrow a thread; raises Busy if none becomes free in time."""
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[ThreadPoolExecutor] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(patience_s):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the thread came at the same moment
                self._is_idle(turn.result())
            if isinstance(error, TimeoutError):
                raise Busy from None
            raise

    def give_back(self, thread: ThreadPoolExecutor) -> None:
        """Return a thread to the others once it is idle: a view may still run after its request was cancelled."""
        loop = asyncio.get_running_loop()
        idle: Future[None] = thread.submit(_nothing)
        idle.add_done_callback(lambda _: _call_soon(loop, self._is_idle, thread))

    def _is_idle(self, thread: ThreadPoolExecutor) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one stays in the list
                turn.set_result(thread)
                return
        self._free.append(thread)

    async def run(self, work: Callable[[], T], *, patience_s: float | None = None) -> T:
        """Run a piece of work on a borrowed thread; raises Busy if none becomes free in time."""
        thread = await self.take(patience_s=patience_s)
        running = thread.submit(copy_context().run, work)
        try:
            return await asyncio.wrap_future(running)
        finally:
            if running.done():
                self._is_idle(thread)
            else:
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


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[T], None], what: T) -> None:
    with suppress(RuntimeError):  # the server has stopped meanwhile
        loop.call_soon_threadsafe(work, what)


def _nothing() -> None:
    return None
