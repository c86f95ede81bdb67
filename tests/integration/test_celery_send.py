"""A send of a task becomes a row: the same message as kombu's, in the caller's transaction, without a broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis as redis_client
from celery import Celery, chord, group
from celery.exceptions import ImproperlyConfigured
from celery.exceptions import TimeoutError as CeleryTimeout
from django.conf import settings
from django.db import connection, transaction
from kombu import Exchange, Queue

from esteira.broker import publisher
from esteira.celery import adopt
from esteira.db import DjangoConnection, PrivateConnection
from esteira.errors import InvalidOption, TooLarge
from esteira.job_types.registry import registry

QUEUES = [
    Queue("default", routing_key="default"),
    Queue("mail", routing_key="mail"),
    Queue("orders", Exchange("shop", type="topic"), routing_key="order.#"),
    Queue("paid", Exchange("shop", type="topic"), routing_key="order.paid"),
    Queue("everybody", Exchange("news", type="fanout")),
]


def make_app(**conf: Any) -> Celery:
    app = Celery("shop", broker=settings.ESTEIRA_REDIS_URL, set_as_current=False)
    app.conf.update(task_default_queue="default", task_queues=QUEUES, timezone="UTC", **conf)

    @app.task(name="sums.add", shared=False)
    def add(*numbers: int) -> int:
        return sum(numbers)

    return app


@pytest.fixture
def app(database: None) -> Iterator[Celery]:
    app = adopt(make_app())
    yield app
    app.close()


def rows(core: PrivateConnection) -> list[dict[str, Any]]:
    found = core.fetch("SELECT to_jsonb(j), message FROM esteira_job j ORDER BY id")
    return [{**row, "message": json.loads(message)} for row, message in found]


def settled(message: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between any two messages."""
    for name in ("delivery_tag", "reply_to", "expiration"):
        message["properties"].pop(name, None)
    message["headers"].pop("origin", None)
    return message


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "yaml": {"serializer": "yaml"},
    "pickle": {"serializer": "pickle"},
    "compressed": {"compression": "zlib"},
    "with options": {"priority": 4, "time_limit": 50, "soft_time_limit": 40, "shadow": "nick", "ignore_result": True},
    "with headers": {"headers": {"x-shop": "yes"}, "stamped_headers": ["tenant"], "tenant": "acme"},
    "with a link": {"link": {"task": "sums.add", "args": [1], "kwargs": {}, "options": {}, "immutable": False}},
    "to another queue": {"queue": "mail"},
    "through an exchange": {"exchange": "shop", "routing_key": "order.paid"},
    "with moments": {
        "eta": datetime(2030, 1, 1, tzinfo=UTC), "expires": datetime(2031, 1, 1, tzinfo=UTC), "add_to_parent": False
    },
    "hidden": {"argsrepr": "(***)", "kwargsrepr": "{***}"},
}  # fmt: skip


@pytest.mark.parametrize("how", sorted(OPTIONS))
def test_the_message_is_the_one_that_kombu_would_push(
    app: Celery, core: PrivateConnection, redis: redis_client.Redis, how: str
) -> None:
    stock, task_id = make_app(), str(uuid4())
    with stock.connection() as real:  # declares the exchanges, as a worker does
        for queue in QUEUES:
            queue(real.default_channel).declare()
        wanted = OPTIONS[how]
        stock.send_task("sums.add", (1, 2.5), task_id=task_id, **wanted)
        (key,) = [one for one in redis.keys("*") if redis.type(one) == b"list"]
        (pushed,) = redis.lrange(key, 0, -1)

    app.send_task("sums.add", (1, 2.5), task_id=task_id, **wanted)

    (row,) = rows(core)
    assert settled(row["message"]) == settled(json.loads(pushed))
    assert row["queue"].encode() == key.split(b"\x06\x16")[0]
    stock.close()


def test_a_send_belongs_to_the_callers_transaction(app: Celery, core: PrivateConnection) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        app.tasks["sums.add"].delay(1)
        raise ZeroDivisionError
    assert rows(core) == []

    with transaction.atomic():
        app.tasks["sums.add"].delay(1)
        assert rows(core) == []
    assert len(rows(core)) == 1


def test_a_send_needs_no_redis(app: Celery, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ESTEIRA_REDIS_URL", "redis://127.0.0.1:1/0")
    publisher.fast.forget()
    app.conf.update(broker_url="redis://127.0.0.1:1/0", task_send_sent_event=True)
    try:
        app.tasks["sums.add"].delay(1)
        app.tasks["sums.add"].apply_async((1,), countdown=60)
    finally:
        publisher.fast.forget()

    assert len(rows(core)) == 2


def test_a_countdown_is_added_to_the_databases_clock(app: Celery, core: PrivateConnection) -> None:
    app.tasks["sums.add"].apply_async((1,), countdown=100, expires=200)

    ((runs_in, expires_in),) = core.fetch(
        """SELECT extract(epoch FROM run_at - clock_timestamp())::float8,
             extract(epoch FROM expires_at - clock_timestamp())::float8 FROM esteira_job"""
    )
    assert 90 < runs_in <= 100
    assert 190 < expires_in <= 200


def test_an_eta_and_a_moment_of_expiry_are_taken_as_given(app: Celery, core: PrivateConnection) -> None:
    eta, expires = datetime(2030, 1, 1, 3, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)

    app.tasks["sums.add"].apply_async((1,), eta=eta, expires=expires)

    assert core.fetch("SELECT run_at, expires_at FROM esteira_job") == [(eta, expires)]


@pytest.mark.parametrize(
    ("asked", "stored"),
    [(None, 6), (0, 3), (3, 3), (5, 3), (6, 6), (8, 6), (9, 9)],
)
def test_celerys_priorities_are_three_lists(
    app: Celery, core: PrivateConnection, asked: int | None, stored: int
) -> None:
    app.tasks["sums.add"].apply_async((1,), **({} if asked is None else {"priority": asked}))

    (row,) = rows(core)
    assert row["priority"] == stored
    assert row["message"]["properties"]["priority"] == (asked or 0)


def test_a_group_is_one_statement_and_all_or_nothing(
    app: Celery, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    fetch = DjangoConnection.fetch

    def counted(self: DjangoConnection, sql: str, params: Any = ()) -> Any:
        statements.append(sql)
        return fetch(self, sql, params)

    monkeypatch.setattr(DjangoConnection, "fetch", counted)
    add = app.tasks["sums.add"]

    group([add.s(n) for n in range(300)]).apply_async()
    assert ["INSERT INTO esteira_job" in sql for sql in statements] == [True]

    with pytest.raises(InvalidOption, match="countdown"):
        group([add.s(1), add.s(2).set(countdown=1e12)]).apply_async()
    assert len(rows(core)) == 300


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_header_given_as_a_generator_is_counted_once(
    app: Celery, core: PrivateConnection, size: int
) -> None:
    add = app.tasks["sums.add"]

    chord(add.s(n) for n in range(size))(add.s())

    assert core.fetch("SELECT size FROM esteira_taskchord") == [(size,)]
    assert len(rows(core)) == size


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a long name": ({"name": "a" * 121}, "task: must be 1 to 120 characters"),
    "a long id": ({"task_id": "a" * 251}, "task_id: must be 1 to 250 characters"),
    "an id with NUL": ({"task_id": "a\0"}, "task_id: holds a NUL"),
    "a long queue": ({"queue": "q" * 61}, "queue: must be 1 to 60 characters"),
    "a queue like a key of ours": ({"queue": "behind.mail"}, "queue: must not begin with"),
    "a far countdown": ({"countdown": 1e10}, "countdown: must be a number of seconds"),
    "an early eta": ({"eta": datetime(1900, 1, 1, tzinfo=UTC)}, "eta: must lie between 1970"),
    "a far expiry": ({"expires": 1e10}, "expires: must be a number of seconds"),
    "an exchange without a queue": (
        {"exchange": "shop", "routing_key": "nobody"},
        "exchange: 'shop' with the routing key 'nobody' leads to no queue",
    ),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_cannot_be_stored_is_refused_by_its_name(
    app: Celery, core: PrivateConnection, what: str
) -> None:
    wanted, said = REFUSED[what]

    with pytest.raises(InvalidOption, match=said):
        app.send_task(**{"name": "sums.add", "args": (1,), **wanted})

    assert rows(core) == []


def test_a_message_over_16_mib_is_refused(app: Celery, core: PrivateConnection) -> None:
    with pytest.raises(TooLarge, match="message: larger than the limit of 16 MiB"):
        app.send_task("sums.add", ("x" * 13 * 1024**2,))

    assert rows(core) == []


def test_a_job_type_is_submitted_and_not_sent(app: Celery, core: PrivateConnection) -> None:
    name = registry.names()[0]

    with pytest.raises(InvalidOption, match=r"is a job type; submit it by its own submit\(\)"):
        app.send_task(name)

    assert rows(core) == []


def test_a_topic_exchange_leads_to_the_queues_of_its_bindings(app: Celery, core: PrivateConnection) -> None:
    app.send_task("sums.add", exchange="shop", routing_key="order.sent")
    app.send_task("sums.add", exchange="shop", routing_key="order.paid")

    assert sorted(row["queue"] for row in rows(core)) == ["orders", "paid"]


def test_a_broadcast_goes_to_the_broker_as_it_is(
    app: Celery, core: PrivateConnection, redis: redis_client.Redis
) -> None:
    with redis.pubsub() as listener:
        listener.psubscribe("*news*")
        listener.get_message(timeout=5)

        app.send_task("sums.add", (1,), queue="everybody")

        message = listener.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"])["headers"]["task"] == "sums.add"
    assert rows(core) == []


def test_a_producer_of_the_caller_is_accepted_and_not_used(app: Celery, core: PrivateConnection) -> None:
    with app.connection() as real, app.amqp.Producer(real) as producer:  # type: ignore[attr-defined]
        app.send_task("sums.add", (1,), producer=producer)
        app.send_task("sums.add", (1,), connection=real)

    assert len(rows(core)) == 2


def test_a_coroutine_may_send(app: Celery, core: PrivateConnection) -> None:
    async def view() -> None:
        app.tasks["sums.add"].delay(1)

    asyncio.run(view())

    assert len(rows(core)) == 1


def test_get_in_the_open_transaction_says_so_at_once(app: Celery) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="the transaction that is still open"):
        app.tasks["sums.add"].delay(1).get(timeout=30)


def test_a_wait_for_another_task_is_allowed_in_a_transaction(app: Celery) -> None:
    earlier = app.tasks["sums.add"].delay(1)

    with transaction.atomic():
        app.tasks["sums.add"].delay(1)
        with pytest.raises(CeleryTimeout, match="timed out"):
            earlier.get(timeout=0.05)


def test_a_result_backend_in_the_settings_is_refused(database: None) -> None:
    app = adopt(make_app(result_backend="redis://127.0.0.1:1/0"))

    with pytest.raises(
        ImproperlyConfigured, match="result_backend: results of an adopted app are stored in PostgreSQL"
    ):
        app.tasks["sums.add"].delay(1)


def test_an_app_may_be_adopted_after_its_first_use(database: None, core: PrivateConnection) -> None:
    app = make_app()
    assert [app.amqp, app.backend, app.control]

    adopt(app)
    adopt(app)
    app.tasks["sums.add"].apply_async((1,), eta=datetime.now(UTC) + timedelta(days=1))

    assert len(rows(core)) == 1
    connection.close()
