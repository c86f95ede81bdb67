"""A server on which a thousand rows are not written within a statement's limit: the keeper writes fewer at a time.

They were cancelled in every turn again: no job was published, rescued, expired or published again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
import redis as redis_client

from esteira.broker.publisher import Publisher
from esteira.db import PrivateConnection
from esteira.keeper.hold import Hold
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import Reconciler
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.turns import Turns
from tests.integration.test_keeper_steps import hints, serve
from tests.support.jobs import TYPE, running, stored
from tests.support.old_snapshots import slow_writes
from tests.support.waiting import until

#: To write all takes three times as long as a statement may.
ROWS, LIMIT_S = 300, 0.5


@pytest.fixture
def slow(core: PrivateConnection) -> Iterator[PrivateConnection]:
    serve(core, TYPE)
    slow = PrivateConnection("slow", timeout_s=LIMIT_S)
    yield slow
    slow.close()


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def turned(core: PrivateConnection, step: Callable[[], object], left: str) -> None:
    """Repeat a step, which may fail in between, until no such job is left."""

    def done() -> bool:
        with suppress(psycopg.errors.QueryCanceled):
            step()
        return not core.fetch(f"SELECT 1 FROM esteira_job WHERE {left} LIMIT 1")

    with slow_writes(core):
        until(done, f"no job is left with {left}")


def test_jobs_are_fed_in_smaller_slices(
    core: PrivateConnection, slow: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    ids = stored(core, ROWS)
    due_publisher = DuePublisher(publisher)

    turned(core, lambda: due_publisher.publish(slow), "published_at IS NULL")

    assert sorted(one for hint in hints(redis) for one in hint) == sorted(map(str, ids))


def test_what_was_interrupted_is_fed_in_smaller_slices(
    core: PrivateConnection, slow: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    stored(core, ROWS)
    core.fetch("UPDATE esteira_job SET interrupted = true, attempt = 1")
    due_publisher = DuePublisher(publisher)

    turned(core, lambda: due_publisher.publish(slow), "published_at IS NULL")

    assert len(hints(redis, priority=0)) == ROWS


def test_jobs_are_rescued_in_smaller_slices(core: PrivateConnection, slow: PrivateConnection) -> None:
    running(core, ROWS)
    core.fetch(
        "UPDATE esteira_job SET lease_until = lease_until - interval '1 h', claimed_at = claimed_at - interval '1 h'"
    )
    rescuer, hold = Rescuer(), Hold()

    turned(core, lambda: rescuer.step(slow, hold.look(slow, Turns(), was_away=False)), "state = 'running'")


def test_jobs_expire_in_smaller_slices(core: PrivateConnection, slow: PrivateConnection) -> None:
    stored(core, ROWS)
    core.fetch("UPDATE esteira_job SET expires_at = (SELECT min(run_at) FROM esteira_job)")
    expirer = Expirer()

    turned(core, lambda: expirer.step(slow), "state = 'queued'")


def test_what_is_missing_in_redis_is_fed_again_in_smaller_slices(
    core: PrivateConnection, slow: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    stored(core, ROWS)
    core.fetch("UPDATE esteira_job SET published_at = clock_timestamp()")
    reconciler = Reconciler(publisher)

    turned(core, lambda: reconciler.reconcile(slow), "published_at IS NOT NULL")
