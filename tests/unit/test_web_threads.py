"""The threads of web: few for strangers, and one again for what closes an answer."""

from __future__ import annotations

import asyncio

import pytest

from esteira_web.server.threads import Busy, Few, Lane, Threads


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


def test_a_client_who_leaves_breaks_off_no_closing_of_its_answer() -> None:
    async def run() -> None:
        threads = Threads(1)
        lane, other = Lane(threads), Lane(threads)
        await other.take()

        closing = asyncio.create_task(lane.take_again())
        await asyncio.wait({closing}, timeout=0.01)
        closing.cancel()
        await asyncio.wait({closing}, timeout=0.01)
        other.give_back()
        with pytest.raises(asyncio.CancelledError):
            await closing

        assert await asyncio.wrap_future(lane.submit(lambda: 1)) == 1

    asyncio.run(run())
