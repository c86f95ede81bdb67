"""Foreign messages in Redis under Esteira's names: each delays its own list at most."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis as redis_client

from esteira import Context, job
from esteira.broker.hint import UNACKED, UNACKED_INDEX, UNACKED_MUTEX, Hint, behind_key, ids_in, list_key
from esteira.broker.publisher import Publisher, fast
from esteira.db import PrivateConnection
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import READ_MAX, Reconciler
from esteira.keeper.scheduler import Keeper
from tests.integration.test_keeper_steps import serve
from tests.support.jobs import TYPE, look, stored

pytestmark = pytest.mark.usefixtures("database", "job_types")

MANY = 300_000
STRANGE = json.dumps(
    {
        "body": base64.b64encode(json.dumps([[42, "x" * 100], {}, {}]).encode()).decode(),
        "headers": {"task": "shop.tasks.old"},
        "properties": {"body_encoding": "base64", "delivery_tag": "x"},
    }
)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def ours(redis: redis_client.Redis, queue: str = "default", priority: int = 6) -> list[UUID]:
    """Return the jobs that hints in a list name, those that are read first before the others."""
    found: list[UUID] = []
    for message in reversed(redis.lrange(list_key("esteira:", queue, priority), 0, -1)):
        try:
            found += [UUID(one) for one in ids_in(message)]
        except ValueError:
            continue
    return found


def crowd(redis: redis_client.Redis, n: int = MANY, priority: int = 6) -> None:
    for _ in range(n // 1000):
        redis.lpush(list_key("esteira:", "default", priority), *[STRANGE] * 1000)


def published_long_ago(core: PrivateConnection, redis: redis_client.Redis) -> None:
    redis.set("esteira:filled", "1")
    core.fetch("UPDATE esteira_job SET published_at = published_at - interval '1 minute'")


# --- messages of others -----------------------------------------------------------------------------------------------


def test_three_hundred_thousand_messages_of_others_cost_a_turn_little(
    core: PrivateConnection, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    redis.set("esteira:filled", "1")
    crowd(redis)
    keeper = Keeper()

    most = 0
    for _ in range(5):
        keeper._checked = float("-inf")
        before = sent(redis)
        keeper.turn()
        most = max(most, sent(redis) - before)

    assert most < 1.2 * READ_MAX * len(STRANGE)


def sent(redis: redis_client.Redis) -> int:
    """How many bytes Redis has sent since its start."""
    return int(redis.info("stats")["total_net_output_bytes"])


def test_jobs_are_fed_and_kept_in_a_list_that_is_crowded(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    crowd(redis, 10_000)
    first = stored(core, 10, publish=True)
    publisher.send(Hint(type=TYPE, queue="default", list=6, ids=[one], hard_limit_s=60) for one in first[:9])
    crowd(redis, 10_000)
    published_long_ago(core, redis)
    waiting = stored(core, 2000)
    reconciler, due_publisher = Reconciler(publisher), DuePublisher(publisher)

    found = [reconciler.reconcile(core) for _ in range(3 * 20_000 // READ_MAX)]
    serve(core, TYPE)
    while due_publisher.publish(core)[0]:
        publisher._lengths.clear()

    assert found.count(True) == 1, "the one whose hint is missing, and no other"
    there = ours(redis)
    assert len(there) == len(set(there)), "nothing is doubled"
    assert set(first) <= set(there)
    assert 500 <= len(set(waiting) & set(there)) < 2000, "as far as the window goes, which counts hints only"
    assert len([line for line in caplog.messages if "are not hints" in line]) == 1


def test_a_crowded_list_does_not_hide_what_is_missing_in_another_queue(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE, queues=("default", "zzz"))
    crowd(redis, 20_000)
    stored(core, 5, queue="zzz", publish=True)
    published_long_ago(core, redis)

    assert Reconciler(publisher).reconcile(core) is True


# --- strange messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strange",
    [b"", b"junk", b"\xff\xfe", b"[" * 5000, b'{"body": 1}', b'{"a":' * 2000, b"x" * 50_000_000],
    ids=["empty", "junk", "no text", "deep", "odd", "deep too", "huge"],
)
def test_a_strange_message_is_passed_over(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, strange: bytes
) -> None:
    serve(core, TYPE)
    there, missing = stored(core, 3, publish=True), stored(core, 2, publish=True)
    publisher.send(Hint(type=TYPE, queue="default", list=6, ids=[one], hard_limit_s=60) for one in there)
    redis.lpush(list_key("esteira:", "default", 6), strange)
    published_long_ago(core, redis)
    before = sent(redis)

    assert Reconciler(publisher).reconcile(core) is True

    assert {one for one in [*there, *missing] if look(core, one).published_at is None} == set(missing)
    assert sent(redis) - before < 1_000_000


@pytest.mark.parametrize("body", ["[1]", "[[]]", '["x"]', '{"0": [1]}', "[[1, 2]]", '[{"a": 1}]', "[[[1]]]"])
def test_a_message_that_looks_like_a_hint_of_no_job_names_none(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, body: str
) -> None:
    (missing,) = stored(core, publish=True)
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "properties": {"body_encoding": "base64"},
        "headers": {},
    }
    redis.lpush(list_key("esteira:", "default", 6), json.dumps(message))
    published_long_ago(core, redis)

    assert Reconciler(publisher).reconcile(core) is True
    assert look(core, missing).published_at is None


# --- keys of a wrong type ---------------------------------------------------------------------------------------------

Put = Callable[[redis_client.Redis, str], Any]
WRONG: dict[str, Put] = {
    "string": lambda client, key: client.set(key, "somebody else's"),
    "hash": lambda client, key: client.hset(key, "a", "b"),
    "stream": lambda client, key: client.xadd(key, {"a": "b"}),
    "zset": lambda client, key: client.zadd(key, {"a": 1}),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("number", [0, 3, 6, 9])
def test_a_list_of_a_wrong_type_is_replaced_and_holds_up_no_other(
    core: PrivateConnection,
    redis: redis_client.Redis,
    kind: str,
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve(core, TYPE, queues=("aaa", "default", "zzz"))
    redis.set("esteira:filled", "1")
    for queue in ("aaa", "default", "zzz"):
        stored(core, 5, queue=queue)
    WRONG[kind](redis, list_key("esteira:", "default", number))

    Keeper().turn()

    assert [len(ours(redis, queue)) for queue in ("aaa", "default", "zzz")] == [5, 5, 5]
    said = [line for line in caplog.messages if "deleted" in line]
    assert len(said) == 1 and kind in said[0] and "default" in said[0]


def test_a_list_that_turns_strange_between_two_looks_holds_up_no_other(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE, queues=("aaa", "default", "zzz"))
    for queue in ("aaa", "default", "zzz"):
        stored(core, 5, queue=queue)
        publisher.room(queue)
    redis.set(list_key("esteira:", "default", 6), "somebody else's")

    DuePublisher(publisher).publish(core)
    assert [len(ours(redis, queue)) for queue in ("aaa", "zzz")] == [5, 5]
    assert publisher.available(), "Redis is there"

    published_long_ago(core, redis)
    Reconciler(publisher).reconcile(core)
    publisher._lengths.clear()
    DuePublisher(publisher).publish(core)
    assert len(ours(redis)) == 5


def test_a_submit_survives_a_list_of_a_wrong_type(core: PrivateConnection, redis: redis_client.Redis) -> None:
    @job(name="test.a", queue="default")
    def a(ctx: Context) -> None: ...

    fast.forget()
    redis.set(list_key("esteira:", "default", 6), "somebody else's")

    stuck = a.submit()
    high = a.options(priority="high").submit()

    assert look(core, stuck.id).published_at is None
    assert ours(redis, priority=3) == [high.id]
    fast.forget()


@pytest.mark.parametrize(
    ("name", "put"),
    [
        (UNACKED, "string"),
        (UNACKED_INDEX, "hash"),
        (UNACKED_MUTEX, "hash"),
        ("behind.default", "hash"),
        ("_kombu.binding.celery.pidbox", "string"),
        ("_kombu.binding_permanent.celeryev", "hash"),
    ],
)
def test_another_key_of_a_wrong_type_is_deleted(
    core: PrivateConnection, redis: redis_client.Redis, name: str, put: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert behind_key("", "default") == "behind.default"
    serve(core, TYPE)
    redis.set("esteira:filled", "1")
    stored(core, 5)
    WRONG[put](redis, f"esteira:{name}")

    Keeper().turn()

    assert not redis.exists(f"esteira:{name}")
    assert len(ours(redis)) == 5
    assert [line for line in caplog.messages if name in line and put in line]


def test_a_marker_of_any_type_is_a_marker(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    redis.lpush("esteira:filled", str(uuid4()))

    assert Reconciler(publisher).reconcile(core) is False
