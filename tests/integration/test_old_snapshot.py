"""What keeping costs while somebody holds an old snapshot: it follows what runs and is due, not what ran."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis as redis_client

from esteira.broker.hint import MARKER
from esteira.broker.publisher import Publisher
from esteira.db import PrivateConnection, Row
from esteira.db.walk import Walk
from esteira.keeper.due import Due
from esteira.keeper.hold import Hold
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import Reconciler
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.turns import Turns
from esteira.record import rescue, waiting
from tests.integration.test_keeper_steps import hints, serve
from tests.integration.test_record_plans import FILL
from tests.support.jobs import TYPE, elapse, look, running, stored
from tests.support.old_snapshots import Counted, old_snapshot, ran, slow_writes
from tests.support.waiting import until

pytestmark = pytest.mark.slow

#: Each leaves at least one dead entry in the indexes of claims, of expiries, of publishing and of what is published.
RAN = 20_000
TURNS = 20
#: A turn of a keeper beside nothing reads a few dozen.
FEW_BLOCKS = 300
#: The same where a busy machine makes walks cut their slices narrower; what is read again each time is above it.
BUSY_BLOCKS, MANY_BLOCKS = 600, 5000


@pytest.fixture
def counted(database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    # A fast machine reads all that ran here within a few milliseconds, and a walk as quick as that never rests.
    monkeypatch.setattr("esteira.db.walk.SLOW_S", 0.0005)
    counted = Counted("counted")
    yield counted
    counted.close()


class Sweeper:
    """What a keeper does first in each turn."""

    def __init__(self) -> None:
        self.hold, self.rescuer, self.expirer = Hold(), Rescuer(), Expirer()

    def turns(self, counted: Counted, number: int = TURNS) -> int:
        """Sweep so often; return how many blocks were read."""
        counted.blocks = 0
        for _ in range(number):
            self.rescuer.step(counted, self.hold.look(counted, Turns(), was_away=False))
            self.expirer.step(counted)
        return counted.blocks


def test_a_sweep_does_not_read_again_what_ran(core: PrivateConnection, counted: Counted) -> None:
    sweeper = Sweeper()
    with old_snapshot():
        ran(core, RAN)
        first = sweeper.turns(counted, 1)

        later = sweeper.turns(counted)

    assert first > FEW_BLOCKS, "a keeper that starts reads everything once, or this test shows nothing"
    assert later < TURNS * MANY_BLOCKS, (
        "a busy machine cuts slices narrower; read again each time it was 20,000 a turn"
    )


def test_a_lost_process_is_dealt_with_by_the_keys_of_its_jobs(
    core: PrivateConnection, counted: Counted
) -> None:
    with old_snapshot():
        ran(core, RAN)
        job = running(core, delivery="d9")[0]
        counted.blocks = 0

        assert rescue.process_lost(counted, "d9", [job.id]) == {job.id: "queued"}

    assert counted.blocks < FEW_BLOCKS


def test_a_worker_that_goes_finds_its_jobs_before_what_ran(core: PrivateConnection) -> None:
    with old_snapshot():
        ran(core, RAN)
        jobs = running(core, 3, worker="w7/boot")

        assert set(rescue.drained(core, me="w7/boot")) == {job.id for job in jobs}


# --- compare with Redis -----------------------------------------------------------------------------------------------


@pytest.fixture
def publisher(job_types: None) -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def read_once(reconciler: Reconciler, db: PrivateConnection) -> None:
    """Check until everything was read, as a keeper does that starts."""
    until(lambda: reconciler.reconcile(db) or reconciler.walk.been_through, "everything was read once")


def test_a_check_does_not_read_again_what_ran(
    core: PrivateConnection, counted: Counted, publisher: Publisher, redis: redis_client.Redis
) -> None:
    redis.set(f"esteira:{MARKER}", "1")
    reconciler = Reconciler(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        read_once(reconciler, counted)
        first, counted.blocks = counted.blocks, 0

        for _ in range(TURNS):
            reconciler.reconcile(counted)

    assert first > FEW_BLOCKS, "a keeper that starts reads everything once, or this test shows nothing"
    assert counted.blocks < TURNS * BUSY_BLOCKS


def test_a_missing_hint_is_found_beside_what_ran(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    redis.set(f"esteira:{MARKER}", "1")
    reconciler = Reconciler(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        read_once(reconciler, core)
        (old,), (new,) = stored(core, publish=True), stored(core, publish=True)
        elapse(core, old, "published_at", 1800)

        def found() -> bool:
            reconciler.reconcile(core)
            return look(core, old).published_at is None and look(core, new).published_at is None

        until(found, "both wait to be published again")


def test_after_redis_lost_everything_no_statement_reads_all_that_ran(
    core: PrivateConnection,
    counted: Counted,
    publisher: Publisher,
    redis: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esteira.db.walk.SLICE_LIMIT_S", 0.001)
    reconciler = Reconciler(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        (old,), (new,) = stored(core, publish=True), stored(core, publish=True)
        elapse(core, old, "published_at", 1800)

        until(
            lambda: [reconciler.reconcile(counted)] and redis.exists(f"esteira:{MARKER}"),
            "everything was read",
        )

    assert look(core, old).published_at is None and look(core, new).published_at is None
    assert counted.most < 1000, "all at once is 1,600"


class Statements(PrivateConnection):
    """A private connection that counts the statements that read what is published."""

    pages = 0

    def fetch(self, sql: str, params: Any = ()) -> list[Row]:
        self.pages += "published_at DESC" in sql or "ORDER BY j.published_at" in sql
        return super().fetch(sql, params)


@pytest.mark.parametrize("marker", [True, False])
def test_a_check_reads_a_long_list_of_hints_a_part_in_each_turn(
    core: PrivateConnection,
    publisher: Publisher,
    redis: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
    marker: bool,
) -> None:
    """Else nothing is rescued meanwhile. All are published at the same two moments."""
    monkeypatch.setattr("esteira.keeper.reconcile.SLOW_S", 0.0)
    monkeypatch.setattr("esteira.db.walk.SLOW_S", 0.0)
    core.fetch(FILL, {"type": TYPE, "published": True, "n": 6000})
    core.fetch("ALTER TABLE esteira_job DISABLE TRIGGER USER")
    core.fetch(
        """UPDATE esteira_job SET published_at = date_trunc('hour', clock_timestamp()) - interval '2 hours'
             + (CASE WHEN get_byte(uuid_send(id), 15) < 128 THEN 1 ELSE 2 END) * interval '1 second'"""
    )
    core.fetch("ALTER TABLE esteira_job ENABLE TRIGGER USER")
    if marker:
        redis.set(f"esteira:{MARKER}", "1")
    db, reconciler, most = Statements("statements"), Reconciler(publisher), 0
    if not marker:
        reconciler._refill = Walk(reconciler._take_all, box_s=0.0)
    monkeypatch.setattr(reconciler.walk, "_box_s", 0.0)

    def all_found() -> bool:
        nonlocal most
        db.pages = 0
        reconciler.reconcile(db)
        most = max(most, db.pages)
        return not core.fetch("SELECT 1 FROM esteira_job WHERE published_at IS NOT NULL LIMIT 1")

    until(all_found, "all are found missing")
    db.close()
    assert most < 6, "one moment holds 3,000 rows, and all have 6,000"


# --- publish ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any statement for slow, because so few dead entries take milliseconds only."""
    monkeypatch.setattr("esteira.keeper.due.SLOW_S", 0.0)
    monkeypatch.setattr("esteira.keeper.due.TRY_EVERY_S", 600.0)
    monkeypatch.setattr("esteira.keeper.due.MARKING_S", 0.0)


def turn(due_publisher: DuePublisher, db: PrivateConnection) -> tuple[int, bool]:
    due_publisher._publisher._lengths.clear()
    return due_publisher.publish(db)


def walked(due_publisher: DuePublisher, db: PrivateConnection) -> Due:
    """Publish until the queue is known to be crowded, and everything was looked at once."""
    until(
        lambda: [turn(due_publisher, db)] and due_publisher._due["default"].walked,
        "everything was looked at once",
    )
    assert due_publisher._due["default"].crowded
    return due_publisher._due["default"]


@pytest.mark.usefixtures("crowded")
def test_publishing_does_not_read_again_what_ran(
    core: PrivateConnection, counted: Counted, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        walked(due_publisher, counted)
        first, counted.blocks = counted.blocks, 0

        new = [stored(core)[0] for _ in range(TURNS) if turn(due_publisher, counted)]
        turn(due_publisher, counted)

    assert [ids[0] for ids in hints(redis)] == [str(one) for one in new]
    assert first > FEW_BLOCKS, "a queue is found to be crowded by reading it once"
    assert counted.blocks < TURNS * BUSY_BLOCKS


@pytest.mark.usefixtures("crowded")
def test_asking_who_waits_does_not_read_again_what_ran(
    core: PrivateConnection, counted: Counted, publisher: Publisher
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 20
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        walked(due_publisher, core)
        stored(core, 100)
        while turn(due_publisher, core)[0]:
            pass

        said = [turn(due_publisher, counted) for _ in range(TURNS)]

    assert said == [(0, True)] * TURNS
    assert counted.blocks < TURNS * BUSY_BLOCKS


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("seconds", [70, 1800, 7200])
def test_what_comes_back_below_the_floor_is_published(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, seconds: float
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        walked(due_publisher, core)
        (back,) = stored(core)
        elapse(core, back, "run_at", seconds)

        until(lambda: turn(due_publisher, core)[0], "it is published")

    assert hints(redis) == [[str(back)]]


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("knows", [True, False])
def test_a_crowded_queue_is_fed_in_the_order_in_which_jobs_became_due(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, knows: bool
) -> None:
    """A keeper that starts, and whose first statement is cancelled, knows no floors."""
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 8
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        if knows:
            walked(due_publisher, core)
        else:
            due_publisher._due["default"] = Due("default")
            due_publisher._due["default"]._crowd()
        waiting = stored(core, 40)
        if not knows:
            for n, one in enumerate(waiting):
                elapse(core, one, "run_at", 100.0 * n)
        order: list[str] = []

        def all_published() -> bool:
            turn(due_publisher, core)
            order.extend(one for ids in hints(redis) for one in ids)
            redis.flushall()
            return len(order) >= 40

        until(all_published, "all are published")

    by_time = [
        str(row[0])
        for row in core.fetch("SELECT id FROM esteira_job WHERE published_at IS NOT NULL ORDER BY run_at, id")
    ]
    assert order == by_time


@pytest.mark.usefixtures("crowded")
def test_a_queue_that_is_quick_again_is_crowded_no_more(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    due = walked(due_publisher, core)
    monkeypatch.setattr("esteira.keeper.due.SLOW_S", 60.0)
    (back,) = stored(core)
    elapse(core, back, "run_at", 1800)

    due._try_at = 0.0
    turn(due_publisher, core)

    assert not due.crowded
    assert hints(redis) == [[str(back)]]


def test_a_slow_disk_makes_no_queue_crowded(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be crowded costs walks through all that waits, which a server that writes slowly can afford least."""
    monkeypatch.setattr("esteira.keeper.due.SLOW_S", 0.5)  # reading takes less on a busy machine too
    serve(core, TYPE)
    stored(core, 300)
    due_publisher = DuePublisher(publisher)
    with slow_writes(core):
        turn(due_publisher, core)

    assert len(hints(redis)) == 300
    assert not due_publisher._due["default"].crowded


@pytest.mark.usefixtures("crowded")
def test_jobs_of_a_type_that_a_worker_did_not_know_before_are_fed_in_their_order(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 4
    walked(due_publisher, core)
    waiting = stored(core, 4, type="tests.new")
    for n, one in enumerate(waiting):
        elapse(core, one, "run_at", 1000.0 * n)

    serve(core, TYPE, "tests.new", name="w2")
    until(lambda: turn(due_publisher, core)[0] or len(hints(redis)) == 4, "all are published")

    assert hints(redis) == [[str(one)] for one in reversed(waiting)]


# --- two keepers at once ----------------------------------------------------------------------------------------------


def started(due_publisher: DuePublisher, core: PrivateConnection, number: int) -> list[UUID]:
    """Let jobs wait, the oldest first in the list, each 100 s younger, for a keeper that starts beside a crowded queue."""
    due_publisher._due["default"] = Due("default")
    due_publisher._due["default"]._crowd()
    jobs = stored(core, number)
    for n, one in enumerate(jobs):
        elapse(core, one, "run_at", 100.0 * (number - n))
    return jobs


@pytest.mark.usefixtures("crowded")
def test_two_keepers_publish_a_crowded_queue_in_the_order_in_which_jobs_became_due(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(core, TYPE)
    due_publisher, other = DuePublisher(publisher), PrivateConnection("other")
    due_publisher.window = 8
    asked = {"queue": "default", "types": [TYPE], "priorities": [6], "limit": 8}
    order: list[str] = []

    def published() -> int:
        redis.flushall()
        turn(due_publisher, core)
        order.extend(one for ids in hints(redis) for one in ids)
        return len(order)

    with old_snapshot():
        ran(core, RAN, over_s=3600)
        jobs = started(due_publisher, core, 40)
        until(lambda: published() == 8, "the first slice is published")
        monkeypatch.setattr(due_publisher._due["default"]._walk, "_rests_until", math.inf)

        with other.transaction():
            theirs = [job.id for job in waiting.publish_due(other, **asked).published]
            assert published() == 8, "the other keeper marks the same ones"
            said = due_publisher._flagged["default"][0]
        young = stored(core)
        until(lambda: published() == 33, "all are published")
    other.close()

    assert theirs == jobs[8:16]
    assert said == [6]
    assert order == [str(one) for one in [*jobs[:8], *jobs[16:], *young]]


@pytest.mark.usefixtures("crowded")
def test_a_row_that_somebody_holds_is_not_left_to_the_walk(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(core, TYPE)
    due_publisher, other = DuePublisher(publisher), PrivateConnection("other")
    with old_snapshot():
        ran(core, RAN, over_s=3600)
        jobs = started(due_publisher, core, 5)
        with other.transaction():
            other.fetch("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [jobs[0]])
            until(lambda: [turn(due_publisher, core)] and len(hints(redis)) == 4, "the others are published")
            monkeypatch.setattr(due_publisher._due["default"]._walk, "_rests_until", math.inf)
        turn(due_publisher, core)
    other.close()

    assert look(core, jobs[0]).published_at
