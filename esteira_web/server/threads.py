"""The threads that run synchronous code: a fixed number, each with its own permanent database connection.

A request borrows a thread while Django works on it, and has none while bytes are received or sent.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """No thread became free in time."""


class Thread:
    """One thread, which does one piece of work after the other. Python's own executor takes three times as long."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do some work in the thread and in this context; the future is for the running event loop."""
        loop, context = asyncio.get_running_loop(), copy_context()
        future: asyncio.Future[T] = loop.create_future()

        def do() -> None:
            try:
                answer = context.run(work)
            except BaseException as error:  # whoever waits for the work gets it
                _call_soon(loop, _end, future.set_exception, future, error)
            else:
                _call_soon(loop, _end, future.set_result, future, answer)

        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="request", daemon=True)
            self._thread.start()
        self._work.put(do)
        return future

    def _run(self) -> None:
        while True:
            self._work.get()()


class Threads:
    """A fixed number of threads for one event loop; the thread that was used last is used next."""

    def __init__(self, count: int) -> None:
        self._free = [Thread() for _ in range(count)]
        #: The requests that wait for a thread, in order; while a thread is free, none waits.
        self._waiting: deque[asyncio.Future[Thread]] = deque()

    async def take(self, *, patience_s: float | None = None) -> Thread:
        """Borrow a thread; raises Busy if none becomes free in time."""
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[Thread] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(patience_s):
                return await turn
        except BaseException as error:  # a request that is cancelled keeps no thread
            if turn.done() and not turn.cancelled():  # the thread came at the same moment
                self._is_idle(turn.result())
            if isinstance(error, TimeoutError):
                raise Busy from None
            raise

    def give_back(self, thread: Thread) -> None:
        """Return a thread to the others once it is idle: a view may still run after its request was cancelled."""
        thread.start(_nothing).add_done_callback(lambda _: self._is_idle(thread))

    def _is_idle(self, thread: Thread) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one stays in the list
                turn.set_result(thread)
                return
        self._free.append(thread)

    async def run(self, work: Callable[[], T], *, patience_s: float | None = None) -> T:
        """Run a piece of work on a borrowed thread; raises Busy if none becomes free in time."""
        thread = await self.take(patience_s=patience_s)
        running = thread.start(work)
        try:
            return await running
        finally:
            if running.cancelled():
                self.give_back(thread)
            else:
                self._is_idle(thread)


class Few(Threads):
    """At most `count` of the threads of another object at once; waiting requests are served in order."""

    def __init__(self, threads: Threads, count: int) -> None:
        super().__init__(0)
        self._threads, self._places = threads, asyncio.Semaphore(count)

    async def take(self, *, patience_s: float | None = None) -> Thread:
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

    def _is_idle(self, thread: Thread) -> None:
        self._places.release()
        self._threads._is_idle(thread)


def _call_soon(loop: asyncio.AbstractEventLoop, *work: Any) -> None:
    try:
        loop.call_soon_threadsafe(*work)
    except RuntimeError:  # the server has stopped meanwhile
        return


def _end(how: Callable[[Any], None], future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():  # else its request was cancelled
        how(value)


def _nothing() -> None:
    return None
