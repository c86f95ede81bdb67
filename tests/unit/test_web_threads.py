"""The threads of web: each goes to one request at a time, in order, and none is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from esteira_web.server.threads import Busy, Few, Threads


def test_few_leave_the_others_free() -> None:
    async def run() -> None:
        threads = Threads(3)
        few = Few(threads, 1)

        one = await few.take()
        with pytest.raises(Busy):
            await few.take(patience_s=0.01)
        others = [await threads.take(), await threads.take()]
        few.give_back(one)

        assert await few.take(patience_s=10) is one
        assert len({one, *others}) == 3

    asyncio.run(run())


def test_who_gets_none_of_few_keeps_no_place() -> None:
    async def run() -> None:
        threads = Threads(1)
        few = Few(threads, 1)
        only = await threads.take()

        with pytest.raises(Busy):
            await few.take(patience_s=0.01)
        threads.give_back(only)

        assert await few.take(patience_s=10) is only

    asyncio.run(run())


def test_those_who_wait_are_served_in_order() -> None:
    async def run() -> None:
        threads = Threads(1)
        thread = await threads.take()
        served: list[int] = []

        async def wait(number: int) -> None:
            one = await threads.take()
            served.append(number)
            threads.give_back(one)

        waiting = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.wait(waiting, timeout=0.01)
        waiting[1].cancel()
        threads.give_back(thread)
        await asyncio.wait(waiting)

        assert served == [0, 2, 3, 4]
        assert await threads.take(patience_s=10) is thread

    asyncio.run(run())


def test_who_leaves_as_a_thread_comes_keeps_no_thread() -> None:
    async def run() -> None:
        threads = Threads(1)
        thread = await threads.take()
        waiting = asyncio.create_task(threads.take())
        await asyncio.wait({waiting}, timeout=0.01)

        threads._is_idle(thread)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        assert await threads.take(patience_s=10) is thread

    asyncio.run(run())


def test_a_thread_is_given_to_nobody_while_it_still_works() -> None:
    async def run() -> None:
        threads, may_end = Threads(1), threading.Event()
        began, ended = threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            may_end.wait(30)
            ended.set()

        running = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(began.wait, 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(Busy):
            await threads.run(may_end.set, patience_s=0.01)
        may_end.set()

        assert await threads.run(ended.is_set, patience_s=30)

    asyncio.run(run())


def test_work_that_fails_gives_its_thread_back() -> None:
    async def run() -> None:
        threads = Threads(1)

        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)

        assert await threads.run(lambda: 1, patience_s=10) == 1

    asyncio.run(run())
