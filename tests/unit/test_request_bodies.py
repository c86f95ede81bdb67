"""How long a body may take, and how much of all of them is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from esteira_web.server import bodies
from esteira_web.server.bodies import Body, Left, Refused, UnderWay

PIECE = {"type": "http.request", "body": b"x" * 1024, "more_body": True}
LAST = {"type": "http.request", "body": b"", "more_body": False}


def body(messages: Iterable[dict[str, Any]], *, pause_s: float = 0.0, said: int = 10_000_000) -> Body:
    """Return a body of these messages, after which nothing comes."""
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        arrived = asyncio.Event()
        asyncio.get_running_loop().call_later(pause_s, arrived.set)
        await arrived.wait()
        return next(coming, None) or await asyncio.get_running_loop().create_future()

    return Body({"headers": [(b"content-length", str(said).encode())]}, receive)


def refusal(work: Callable[[], Any]) -> int:
    with pytest.raises(Refused) as refused:
        asyncio.run(work())
    return refused.value.problem.status


def endless() -> Iterable[dict[str, Any]]:
    while True:
        yield PIECE


def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.05)

    assert refusal(lambda: body([PIECE]).take(20_000_000)) == 408


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.2)

    assert refusal(lambda: body(endless(), pause_s=0.01).take(20_000_000)) == 408


def test_an_upload_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "UPLOAD_S", 0.2)

    async def take() -> None:
        async for _ in body(endless(), pause_s=0.01).pieces(1024):
            pass

    assert refusal(take) == 408


def test_a_body_that_says_too_little_is_cut_off_where_it_is_too_large() -> None:
    chunked = body(endless())
    chunked.said = 0

    assert refusal(lambda: chunked.take(5_000)) == 413
    assert chunked.got <= 5_000 + 1024


def test_a_small_body_that_is_there_is_taken_at_once() -> None:
    small = body([{**PIECE, "more_body": False}], said=1024)

    assert asyncio.run(small.came_at_once())
    assert small.content() == PIECE["body"]


def test_a_large_body_is_not_taken_before_its_sender_is_known() -> None:
    large = body(endless())

    assert not asyncio.run(large.came_at_once())
    assert large.got <= bodies.SMALL + 1024


def test_what_is_refused_is_read_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DRAIN_S", 0.2)
    refused, ended = body(endless(), pause_s=0.001), body([PIECE, LAST])

    asyncio.run(refused.drain())
    asyncio.run(ended.drain())

    assert not refused.whole
    assert ended.whole


def test_who_leaves_ends_it() -> None:
    with pytest.raises(Left):
        asyncio.run(body([PIECE, {"type": "http.disconnect"}]).take(20_000_000))


def test_each_caller_and_all_together_have_so_much_under_way() -> None:
    under_way = UnderWay()
    most = bodies.CALLER_BYTES

    with under_way.room("user:1", most):
        assert refusal_of(under_way, "user:1", 1) == 429
        with under_way.room("user:2", most), under_way.room("user:3", most):
            assert refusal_of(under_way, "user:4", 1) == 503
        with under_way.room("user:4", 1):
            pass
    with under_way.room("user:1", most):
        pass


def refusal_of(under_way: UnderWay, caller: str, count: int) -> int:
    with pytest.raises(Refused) as refused, under_way.room(caller, count):
        pass
    return refused.value.problem.status
