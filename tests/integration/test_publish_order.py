"""Who goes first: within a priority, jobs start in the order in which they became due, whoever else waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis as redis_client

from esteira import Context, job
from esteira.broker.hint import behind_key, ids_in, list_key
from esteira.broker.publisher import BEHIND_S, Publisher, fast
from esteira.db import PrivateConnection
from esteira.job_types.registry import JobType
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import Reconciler
from esteira.keeper.scheduler import Keeper
from esteira.record import operate, publish, rescue, waiting
from esteira.record.claim import claim
from esteira.record.finish import finish
from esteira.record.lease import hand_back
from esteira.record.telling import start
from tests.integration.test_keeper_steps import hints, serve
from tests.integration.test_record_plans import FILL, Explained, published_blocks
from tests.support.jobs import TYPE, elapse, ended, look, outcome, running, schedule, stored
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def by_list(redis: redis_client.Redis) -> dict[int, int]:
    return {number: len(hints(redis, priority=number)) for number in (0, 3, 6, 9)}


# --- what was interrupted ---------------------------------------------------------------------------------------------


def test_what_an_operator_retries_goes_to_its_own_list(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    for one in running(core, 20, priority=9):
        finish(core, [outcome(one, "given_up")])
        operate.retry(core, one.id, by="op")
    (dead,) = running(core, priority=9)
    start(core, dead.id, dead.attempt, 0.0)
    rescue.process_lost(core, "d1")
    ended(core, dead.id, "dead")
    operate.retry(core, dead.id, by="op")
    stored(core, 5, priority=3)

    DuePublisher(publisher).publish(core)

    assert by_list(redis) == {0: 0, 3: 5, 6: 0, 9: 21}


def test_what_was_handed_back_before_its_start_returns_to_its_old_place(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    waited = running(core, 3)
    newer = stored(core, 2)

    hand_back(core, [(one.id, one.attempt) for one in waited])
    DuePublisher(publisher).publish(core)

    assert by_list(redis)[0] == 0
    by_time = [row[0] for row in core.fetch("SELECT id FROM esteira_job ORDER BY run_at, id")]
    assert set(by_time[3:]) == set(newer)
    assert hints(redis) == [[str(one)] for one in by_time]


@pytest.mark.parametrize("how", ["lost process", "ended lease", "drain", "restart", "handed back"])
def test_what_was_interrupted_after_its_start_goes_to_the_front_once(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, how: str
) -> None:
    serve(core, TYPE)
    batch = running(core, 2, delivery="d")
    started, waited = batch[0].id, batch[1].id
    start(core, started, 1, 0.0)
    stored(core, 3, priority=3)

    if how == "lost process":
        rescue.process_lost(core, "d")
    elif how == "ended lease":
        elapse(core, started, "lease_until")
        elapse(core, waited, "lease_until")
        rescue.leases_ended(core)
    elif how == "drain":
        rescue.drained(core, me="w1/boot")
    elif how == "restart":
        rescue.worker_restarted(core, incarnation="boot")
    else:
        hand_back(core, [(started, 1), (waited, 1)])
    DuePublisher(publisher).publish(core)

    assert hints(redis, priority=0) == [[str(started)]]
    assert hints(redis) == [[str(waited)]]
    (again,) = claim(core, [started], worker="w1/boot", delivery="e")
    assert look(core, started).interrupted is False
    finish(core, [outcome(again, "failed", delay_s=0.0)])
    redis.flushall()
    DuePublisher(publisher).publish(core)
    assert hints(redis, priority=0) == []


# --- in turn ----------------------------------------------------------------------------------------------------------

TICKS = """
INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, schedule_id,
  tick_at, in_turn, run_at)
SELECT gen_random_uuid(), %(type)s, '{}', 'default', 6, 1, 2, 10, 600, %(schedule)s,
  clock_timestamp() - n * interval '1 minute', true, clock_timestamp() - n * interval '1 minute'
FROM generate_series(1, %(n)s) n"""


def ticks(core: PrivateConnection, n: int, *, name: str = "turns", type: str = TYPE) -> list[UUID]:
    """Let a schedule's jobs wait for their turn; return them, oldest first."""
    number = schedule(core, name)
    core.fetch(TICKS, {"type": type, "schedule": number, "n": n})
    return [
        row[0]
        for row in core.fetch("SELECT id FROM esteira_job WHERE schedule_id = %s ORDER BY tick_at", [number])
    ]


def offered(redis: redis_client.Redis, of: list[UUID], priority: int = 6) -> list[UUID]:
    given = {UUID(one) for ids in hints(redis, priority) for one in ids}
    return [one for one in of if one in given]


def test_a_schedule_in_turn_offers_its_oldest_tick_only(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    waiting = ticks(core, 3000)
    others = stored(core, 50)
    due_publisher = DuePublisher(publisher)

    while due_publisher.publish(core)[0]:
        pass

    assert offered(redis, waiting) == waiting[:1]
    assert len(offered(redis, others)) == 50
    (first,) = claim(core, waiting[:1], worker="w", delivery="d")
    assert due_publisher.publish(core)[0] == 0, "its turn is not over"
    finish(core, [outcome(first)])
    assert due_publisher.publish(core)[0] == 1
    assert offered(redis, waiting) == waiting[:2]


def test_waiting_ticks_cost_publishing_nothing(core: PrivateConnection) -> None:
    explained = Explained(core)
    stored(core, 5)
    alone = published_blocks(explained)

    ticks(core, 20_000)

    assert published_blocks(explained) < alone + 20, explained.scans()


@pytest.mark.parametrize("analyzed", [set(), {1, 3}, {1, 4}, {4, 6}, {1, 2, 3, 4, 5, 6}])
def test_offering_a_turn_costs_the_same_before_a_long_backlog(
    core: PrivateConnection, analyzed: set[int]
) -> None:
    """Whatever PostgreSQL knew of the table when: `analyzed` names the steps after which it looked."""
    core.fetch("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")
    steps = iter(range(1, 7))

    def after_a_step() -> None:
        if next(steps) in analyzed:
            core.fetch("ANALYZE esteira_job")

    def cost(n: int, name: str) -> int:
        core.fetch(FILL, {"type": TYPE, "published": False, "n": n})
        after_a_step()
        core.fetch(FILL, {"type": TYPE, "published": True, "n": n})
        after_a_step()
        ticks(core, n, name=name)
        after_a_step()
        explained = Explained(core)
        publish.publish_turns(explained, served={"default": [TYPE, "tests.other"]}, limit=1000)
        waiting.behind(explained, queue="default", types=[TYPE, "tests.other"], priorities=[3, 6, 9])
        return explained.buffers

    short, long = cost(100, "short"), cost(5_000, "long")
    core.fetch("ALTER TABLE esteira_job RESET (autovacuum_enabled)")

    assert long < 2 * short + 100


def test_each_schedule_has_its_own_turn(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    one, two, unknown = ticks(core, 3), ticks(core, 3, name="two"), ticks(core, 3, name="x", type="no.body")
    gone = ticks(core, 3, name="gone")
    core.fetch("UPDATE esteira_job SET type = 'no.body' WHERE id = %s", [two[0]])
    core.fetch("UPDATE esteira_job SET schedule_id = NULL WHERE id = ANY(%s)", [gone])

    DuePublisher(publisher).publish(core)

    assert offered(redis, [*one, *two, *unknown]) == [one[0], two[1]], "what nobody can run holds up nobody"
    assert offered(redis, gone) == gone, "what a deleted schedule left is bound to no turn"


def test_an_interrupted_tick_keeps_its_turn_and_goes_to_the_front(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    waiting = ticks(core, 3)
    DuePublisher(publisher).publish(core)
    redis.flushall()
    (lost,) = claim(core, waiting[:1], worker="w", delivery="d")
    start(core, lost.id, lost.attempt, 0.0)
    rescue.process_lost(core, "d")

    DuePublisher(publisher).publish(core)

    assert offered(redis, waiting, priority=0) == waiting[:1]
    assert offered(redis, waiting) == []


SLOW_TURNS = """
DO $do$ BEGIN
  CREATE FUNCTION wait_a_while() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
  CREATE TRIGGER wait_a_while BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (OLD.in_turn)
    EXECUTE FUNCTION wait_a_while();
END $do$
"""


def test_after_two_slow_looks_for_turns_the_next_one_rests(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    """Beside many dead entries each look reads all of them again."""
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    core.fetch(SLOW_TURNS)
    try:
        for name in ("a", "b"):
            slow = ticks(core, 3, name=name)
            assert due_publisher.publish(core)[0] == 1
        two, other = ticks(core, 3, name="two"), stored(core, 1)

        assert due_publisher.publish(core)[0] == 1
        assert (offered(redis, slow), offered(redis, two), offered(redis, other)) == (slow[:1], [], other)
        until(lambda: due_publisher.publish(core)[0], "the other turn is offered as well")
    finally:
        core.fetch("DROP FUNCTION wait_a_while CASCADE")

    assert offered(redis, two) == two[:1]


# --- before what is new -----------------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> Iterator[JobType]:
    @job(name="test.plain")
    def plain(ctx: Context) -> None: ...

    fast.forget()
    yield plain
    fast.forget()


def run_next(core: PrivateConnection, redis: redis_client.Redis, n: int, order: list[UUID]) -> None:
    """Run what n hints of normal priority name, as workers would."""
    for message in redis.rpop(list_key("esteira:", "default", 6), n) or []:
        for mine in claim(core, [UUID(one) for one in ids_in(message)], worker="w", delivery="d"):
            order.append(mine.id)
            finish(core, [outcome(mine)])


def test_a_steady_stream_of_new_jobs_overtakes_by_a_window_and_a_turn_at_most(
    core: PrivateConnection, redis: redis_client.Redis, settings: Any, plain: JobType
) -> None:
    settings.ESTEIRA_WINDOW = window = 100
    a_turn = 5
    serve(core, plain.name)
    burst = plain.submit_many({} for _ in range(150)) + plain.submit_many({} for _ in range(150))
    delayed = stored(core, 10, type=plain.name)
    keeper, order, newer = Keeper(), list[UUID](), list[UUID]()

    while not set(delayed) <= set(order) and len(newer) < 1500:
        fast._lengths.clear()
        newer += plain.submit_many({} for _ in range(a_turn))
        keeper._publisher._lengths.clear()
        keeper.turn()
        run_next(core, redis, a_turn, order)

    assert set(delayed) <= set(order), f"none of the delayed ones ran, {len(order)} others did"
    late = [one for one in order[: order.index(delayed[-1])] if one in set(newer)]
    assert len(late) <= window + a_turn
    assert set(burst) <= set(order), "nor did any of the burst stay behind"


def test_new_jobs_go_straight_to_redis_while_nothing_waits(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, plain: JobType
) -> None:
    serve(core, plain.name)
    stored(core, 20, type=plain.name)
    DuePublisher(publisher).publish(core)

    plain.submit()

    assert sum(map(len, hints(redis))) == 21
    assert not redis.exists(behind_key("esteira:", "default"))


def test_new_jobs_wait_behind_a_full_list_of_their_own_priority_only(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, plain: JobType
) -> None:
    serve(core, plain.name)
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 20
    stored(core, 100, type=plain.name)
    stored(core, 3, type=plain.name, priority=9)
    while due_publisher.publish(core)[0]:
        publisher._lengths.clear()

    normal, high = plain.submit(), plain.options(priority="high").submit()
    low = plain.options(priority="low").submit()

    assert 0 < redis.ttl(behind_key("esteira:", "default")) <= BEHIND_S
    assert [look(core, one.id).published_at is not None for one in (normal, high, low)] == [False, True, True]
    redis.delete(behind_key("esteira:", "default"))  # no keeper lives, or Redis has lost the word
    fast._lengths.clear()
    assert look(core, plain.submit().id).published_at is not None


def test_the_last_of_a_backlog_opens_its_list_to_new_jobs(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, plain: JobType
) -> None:
    serve(core, plain.name)
    due_publisher, order = DuePublisher(publisher), list[UUID]()
    due_publisher.window = 20
    stored(core, 100, type=plain.name)

    while len(order) < 100:
        publisher._lengths.clear()
        due_publisher.publish(core)
        run_next(core, redis, 5, order)

    assert not redis.exists(behind_key("esteira:", "default"))
    by_time = [row[0] for row in core.fetch("SELECT id FROM esteira_job ORDER BY run_at, id")]
    assert order == by_time


# --- one by one -------------------------------------------------------------------------------------------------------

SLOW = """
DO $do$ BEGIN
  CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
  CREATE TRIGGER wait_long BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (OLD.queue = 'aaa')
    EXECUTE FUNCTION wait_long();
END $do$
"""
REFUSE = """
DO $do$ BEGIN
  CREATE FUNCTION refuse_bad() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN RAISE EXCEPTION 'this row is bad' USING ERRCODE = 'check_violation'; END $$;
  CREATE TRIGGER refuse_bad BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (OLD.params ? 'bad')
    EXECUTE FUNCTION refuse_bad();
END $do$
"""


@pytest.fixture
def bad_rows(core: PrivateConnection) -> Iterator[None]:
    """The database refuses every change of jobs with a parameter `bad`."""
    core.fetch(REFUSE)
    yield
    core.fetch("DROP FUNCTION refuse_bad CASCADE")


@pytest.mark.usefixtures("bad_rows")
def test_a_row_that_cannot_be_written_fails_alone(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    serve(core, TYPE)
    redis.set("esteira:filled", "1")
    bad = stored(core, params='{"bad": 1}') + stored(core, params='{"bad": 2}', publish=True)
    good, lost = stored(core, 3), stored(core, 3, publish=True)
    grace(core, seconds=10)

    Reconciler(publisher).reconcile(core)
    DuePublisher(publisher).publish(core)

    assert sorted(offered(redis, [*bad, *good, *lost])) == sorted([*good, *lost])
    assert [line for line in caplog.messages if str(bad[0]) in line and "this row is bad" in line]


def grace(core: PrivateConnection, *, seconds: float) -> None:
    """Let so much time go by since hints were sent."""
    core.fetch("ALTER TABLE esteira_job DISABLE TRIGGER USER")
    core.fetch("UPDATE esteira_job SET published_at = published_at - %s * interval '1 second'", [seconds])
    core.fetch("ALTER TABLE esteira_job ENABLE TRIGGER USER")


def test_a_queue_whose_publish_takes_too_long_holds_up_no_other(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    @job(name="test.slow", queue="aaa")
    def slow(ctx: Context) -> None: ...

    serve(core, TYPE, "test.slow", queues=("aaa", "default", "zzz"))
    others = stored(core, 3), stored(core, 3, queue="zzz")
    stored(core, 1, queue="aaa", type="test.slow")
    core.fetch(SLOW)
    impatient = PrivateConnection("impatient", timeout_s=1)
    try:
        DuePublisher(publisher).publish(impatient)
    finally:
        impatient.close()
        core.fetch("DROP FUNCTION wait_long CASCADE")

    assert (len(hints(redis)), len(hints(redis, queue="zzz"))) == (len(others[0]), len(others[1]))


# --- two keepers at once ----------------------------------------------------------------------------------------------


def test_a_keeper_that_meets_the_slice_of_another_still_says_that_others_wait(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, plain: JobType
) -> None:
    serve(core, plain.name)
    due_publisher, other = DuePublisher(publisher), PrivateConnection("other")
    due_publisher.window = 20
    stored(core, 100, type=plain.name)
    while due_publisher.publish(core)[0]:
        publisher._lengths.clear()
    assert redis.get(behind_key("esteira:", "default")) == b"6"
    run_next(core, redis, 20, [])
    publisher._lengths.clear()

    with other.transaction():
        waiting.publish_due(other, queue="default", types=[plain.name], priorities=[6], limit=20)
        published, waits = due_publisher.publish(core)
    other.close()

    assert (published, waits) == (0, True)
    assert redis.get(behind_key("esteira:", "default")) == b"6"


def test_a_slice_names_what_somebody_holds(core: PrivateConnection) -> None:
    other = PrivateConnection("other")
    held, *free = stored(core, 5)
    asked: dict[str, Any] = {"queue": "default", "types": [TYPE], "priorities": [3, 6]}
    elapse(core, held, "run_at", 100)

    with other.transaction():
        other.fetch("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [held])
        picked = waiting.publish_due(core, limit=5, **asked)
    other.close()

    assert [job.id for job in picked.published] == free
    assert list(picked.held) == [6]
    assert picked.cut and picked.cut[0] == 6, "as many were found as were asked for, so there may be more"
    again = waiting.publish_due(core, limit=5, **asked)
    assert ([job.id for job in again.published], again.held, again.cut) == ([held], {}, None)


@pytest.mark.usefixtures("bad_rows")
def test_a_row_that_cannot_be_written_is_held_by_nobody(core: PrivateConnection) -> None:
    """Else a list would be read from there for ever."""
    other = PrivateConnection("other")
    held, *_ = [*stored(core, 2), *stored(core, params='{"bad": 1}')]

    with other.transaction():
        other.fetch("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [held])
        picked = waiting.publish_due(core, queue="default", types=[TYPE], priorities=[6], limit=9)
    other.close()

    (moment,) = core.fetch("SELECT date_part('epoch', run_at) FROM esteira_job WHERE id = %s", [held])[0]
    assert (len(picked.published), picked.held) == (1, {6: moment})
