"""Hints of types that only another release knows: their jobs wait to be published again, and strangers' are told."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from kombu import Connection
from kombu.message import Message

from esteira.db import PrivateConnection
from esteira.worker.strangers import STRAYS_MAX, Strays, surviving
from tests.support.jobs import look, stored

pytestmark = pytest.mark.usefixtures("database", "job_types")


def message(arguments: Any) -> Message:
    body = arguments if isinstance(arguments, str) else json.dumps([arguments, {}, {}])
    return Message(body, headers={"task": "shop.refund"})


def waits(core: PrivateConnection, ids: list[UUID]) -> bool:
    return all(look(core, one).published_at is None for one in ids)


def test_a_hint_of_several_jobs_goes_back_like_one_of_one(core: PrivateConnection) -> None:
    ids, strays = stored(core, 3, type="shop.refund", publish=True), Strays()

    strays.take(message([str(one) for one in ids]))
    strays.unpublish()

    assert waits(core, ids)


@pytest.mark.parametrize("junk", [[5], [None], 5, None, ["x" * 36], "[" * 100_000, "[[{", [[1]], [{"a": 1}]])
def test_a_strangers_message_is_told_and_holds_up_no_stray(
    core: PrivateConnection, junk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids, strays = stored(core, 2, type="shop.refund", publish=True), Strays()

    strays.take(message(junk))
    strays.take(message([str(one) for one in ids]))
    strays.unpublish()

    assert "was not a hint; it is dropped" in caplog.text
    assert waits(core, ids)


def test_strays_are_bounded(core: PrivateConnection) -> None:
    ids, strays = stored(core, 1, type="shop.refund", publish=True), Strays()

    strays.take(message([str(one) for one in ids]))
    for _ in range(2):
        strays.take(message([str(uuid4()) for _ in range(STRAYS_MAX + 1)]))

    assert len(strays._ids) == STRAYS_MAX
    assert waits(core, ids), "what had come before was put right to make room"


def test_an_error_that_means_a_lost_connection_is_raised_and_a_missing_header_is_not() -> None:
    with Connection("memory://") as connection:
        broken = connection.connection_errors

    def fail_by(error: Exception) -> None:
        def handle(_: Any) -> None:
            raise error

        gone: Any = message([])
        gone._state = "ACK"
        surviving(handle, (*broken, KeyError, OSError))(gone)

    for harmless in (KeyError("id"), AttributeError("x"), RecursionError(), ValueError()):
        fail_by(harmless)
    with pytest.raises(ConnectionResetError):
        fail_by(ConnectionResetError())
