"""Our reading and writing of hints agrees with kombu's and Celery's own."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from celery.events import EventDispatcher
from celery.utils import threads
from celery.worker.consumer import Consumer as CeleryConsumer
from django.conf import settings
from kombu import Connection, Consumer, Producer, Queue

from esteira.broker.hint import LISTS, UNACKED, UNACKED_INDEX, Hint, ids_in, list_key
from esteira.broker.publisher import Publisher
from esteira.runner.heartbeat import LOCKED_PATIENCE_S
from esteira.runner.runner import CLAIM_PATIENCE_S
from esteira.worker import links
from esteira.worker.acks import spare_hints
from tests.support.clients import declare_types

pytestmark = pytest.mark.usefixtures("database")


def broker() -> Connection:
    return Connection(
        settings.ESTEIRA_REDIS_URL, transport_options={"global_keyprefix": settings.ESTEIRA_REDIS_PREFIX}
    )


def test_keys_are_kombus() -> None:
    with broker() as connection:
        channel: Any = connection.default_channel
        assert tuple(channel.priority_steps) == LISTS
        assert (channel.unacked_key, channel.unacked_index_key) == (UNACKED, UNACKED_INDEX)
        for number in LISTS:
            assert settings.ESTEIRA_REDIS_PREFIX + channel._q_for_pri("mail", number) == list_key(
                settings.ESTEIRA_REDIS_PREFIX, "mail", number
            )


def test_celerys_own_limit_leaves_time_for_all_that_waits_for_the_database() -> None:
    hint = Hint(type="test.greet", queue="default", list=3, ids=[uuid4()], hard_limit_s=31.0)

    assert hint.headers()["timelimit"][0] - hint.hard_limit_s >= 1800 + CLAIM_PATIENCE_S + LOCKED_PATIENCE_S


def test_a_hint_is_read_back_from_its_list_and_by_kombu(redis: Any) -> None:
    ids = [uuid4(), uuid4()]
    hint = Hint(type="test.greet", queue="default", list=3, ids=ids, hard_limit_s=60)
    assert Publisher().send([hint])

    (message,) = redis.lrange(list_key(settings.ESTEIRA_REDIS_PREFIX, "default", 3), 0, -1)
    assert ids_in(message) == [str(one) for one in ids]

    got: list[Any] = []
    with (
        broker() as connection,
        Consumer(connection, [Queue("default")], on_message=got.append, accept=["json"]),
    ):
        connection.drain_events(timeout=10)
        assert got[0].headers["task"] == "test.greet"
        assert got[0].headers["id"] == hint.delivery
        assert got[0].payload[0] == [str(one) for one in ids]
        got[0].ack()


def test_hints_are_not_acknowledged_and_other_messages_are(redis: Any, job_types: None) -> None:
    declare_types()
    got: list[Any] = []
    with broker() as connection:
        channel: Any = connection.default_channel
        consumer = Consumer(channel, [Queue("default")], on_message=got.append, accept=["json"])
        spare_hints(channel.qos)
        with consumer:
            assert Publisher().send(
                [Hint(type="t.note", queue="default", list=6, ids=[uuid4()], hard_limit_s=60)]
            )
            connection.drain_events(timeout=10)
            assert not redis.exists(unacked())
            got.pop().ack()

            assert Publisher().send(
                [Hint(type="somebody.elses", queue="default", list=6, ids=[uuid4()], hard_limit_s=60)]
            )
            connection.drain_events(timeout=10)
            assert redis.hlen(unacked()) == 1
            got.pop().ack()

            assert not redis.exists(unacked())


def test_kombu_and_celery_still_have_what_we_close_and_call_by_its_own_name() -> None:
    with broker() as connection:
        channel: Any = connection.default_channel
        transport = getattr(connection, links.TRANSPORT)
        assert transport is not None
        assert all(hasattr(transport, name) for name in links.CHANNELS)
        assert all(callable(getattr(channel, name)) for name in links.CLOSE_CHANNEL)
    assert callable(threads.bound_open_broker_sockets)  # type: ignore[attr-defined]  # new in 5.7
    assert callable(CeleryConsumer._cancel_connection_timer_entries)  # type: ignore[attr-defined]  # likewise
    assert callable(CeleryConsumer._flush_events)  # type: ignore[attr-defined]  # likewise
    assert "_outbound_buffer" in vars(EventDispatcher(enabled=False))


def unacked() -> str:
    return f"{settings.ESTEIRA_REDIS_PREFIX}{UNACKED}"


def test_a_hint_is_written_as_kombu_writes_it(redis: Any) -> None:
    hint = Hint(type="test.greet", queue="default", list=3, ids=[uuid4(), uuid4()], hard_limit_s=60)
    with broker() as connection:
        Producer(connection.channel(), auto_declare=False).publish(
            hint.body(),
            exchange="",
            routing_key=hint.queue,
            priority=hint.list,
            serializer="json",
            headers=hint.headers(),
            correlation_id=hint.delivery,
            delivery_mode=1,
        )
    assert Publisher().send([hint])

    ours, kombus = (
        json.loads(one) for one in redis.lrange(list_key(settings.ESTEIRA_REDIS_PREFIX, "default", 3), 0, -1)
    )

    assert ours["properties"].pop("delivery_tag") != kombus["properties"].pop("delivery_tag")
    assert ours == kombus


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b"{}", b'{"body": 1, "properties": {}}', b"\xff\xfe", b'"x"', b"null"]
)
def test_what_is_no_hint_is_a_value_error(junk: bytes) -> None:
    with pytest.raises(ValueError):
        ids_in(junk)


def test_a_task_with_a_long_countdown_or_run_is_not_given_to_two_workers(redis: Any) -> None:
    """Celery's own tasks beside the jobs: what waits for its moment in a worker, or runs with late acknowledgement."""
    from project.celery import app

    waited = {"a minute": 90, "an hour": 3700}
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        for name in waited:
            Producer(connection, routing_key=name).publish({}, declare=[Queue(name, routing_key=name)])
            assert Queue(name, routing_key=name)(channel).get() is not None

        for tag, entry in redis.hgetall(settings.ESTEIRA_REDIS_PREFIX + UNACKED).items():
            name = json.loads(entry)[2]
            redis.zincrby(settings.ESTEIRA_REDIS_PREFIX + UNACKED_INDEX, -waited[name], tag)
        channel.qos.restore_visible()

        assert {name: channel._size(name) for name in waited} == {"a minute": 0, "an hour": 1}
