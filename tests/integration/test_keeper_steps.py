"""The keeper's steps one by one, against real rows and a real Redis: sweep, reconcile, publish, delete."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis as redis_client
from django.conf import settings as django_settings
from django.db import connection

from esteira import Context, files, job
from esteira.broker.hint import MARKER, ids_in, list_key
from esteira.broker.publisher import Publisher
from esteira.db import PrivateConnection
from esteira.keeper.hold import Hold
from esteira.keeper.publish import DuePublisher
from esteira.keeper.reconcile import Reconciler
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.retention import Retention
from esteira.keeper.scheduler import Keeper, KeeperScheduler
from esteira.keeper.turns import Turns
from esteira.models import File, FileChunk, Job, JobEvent, JobLog, Stat
from esteira.record.claim import claim
from project.local.embedded import Valkey
from tests.support.jobs import TYPE, elapse, ended, kinds, look, running, stored
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(timeout_s=1, breaker_s=0.1)


def serve(
    core: PrivateConnection, *types: str, queues: tuple[str, ...] = ("default",), name: str = "w1"
) -> None:
    """Announce a living worker."""
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES (%s, 'x', 'h', 1, to_jsonb(%s::text[]), to_jsonb(%s::text[]), 2, 'up', clock_timestamp(), clock_timestamp())""",
        [name, list(queues), list(types)],
    )


def hints(redis: redis_client.Redis, priority: int = 6, queue: str = "default") -> list[list[str]]:
    return [
        ids_in(message) for message in reversed(redis.lrange(list_key("esteira:", queue, priority), 0, -1))
    ]


def typical(type: str, seconds: float, runs: int = 100) -> None:
    Stat.objects.create(
        minute="2000-01-01T00:00Z",
        type=type,
        queue="q",
        state="succeeded",
        n=runs,
        sum_ms=seconds * 1000 * runs,
    )
    with connection.cursor() as cursor:
        cursor.execute("UPDATE esteira_stat SET minute = date_trunc('minute', clock_timestamp())")


def held(core: PrivateConnection, *, was_away: bool, hold: Hold | None = None) -> bool:
    """Look as a keeper does; return whether no ordinary lease is judged now."""
    calm = (hold or Hold()).look(core, Turns(), was_away=was_away)
    return calm.longest_lease_s < django_settings.LEASE_SECONDS


def sweep(core: PrivateConnection, *, was_away: bool, hold: Hold | None = None) -> int:
    calm = (hold or Hold()).look(core, Turns(), was_away=was_away)
    return Expirer().step(core) + Rescuer().step(core, calm)


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_a_job_whose_lease_ended_is_rescued_and_one_that_lives_is_not(core: PrivateConnection) -> None:
    dead, alive = running(core)[0], running(core)[0]
    elapse(core, dead.id, "lease_until")

    assert sweep(core, was_away=False) == 1

    assert (look(core, dead.id).state, look(core, alive.id).state) == ("queued", "running")
    assert kinds(core, dead.id) == ["rescued"]


def test_after_the_database_was_away_the_living_get_half_a_lease(core: PrivateConnection) -> None:
    late = running(core)[0]
    elapse(core, late.id, "lease_until")
    held(core, was_away=False)
    core.fetch("UPDATE esteira_keeper SET database_started_at = database_started_at - interval '1 hour'")

    assert sweep(core, was_away=False) == 0
    assert look(core, late.id).state == "running"

    until_s = core.fetch(
        "SELECT extract(epoch FROM hold_until - clock_timestamp())::float FROM esteira_keeper"
    )[0][0]
    assert 0 < until_s <= django_settings.LEASE_SECONDS / 2
    core.fetch("UPDATE esteira_keeper SET hold_until = clock_timestamp()")
    assert sweep(core, was_away=False) == 1


def test_a_hold_is_never_extended_by_a_second_gap(core: PrivateConnection) -> None:
    held(core, was_away=False)
    assert held(core, was_away=True)
    first = core.fetch("SELECT hold_until FROM esteira_keeper")
    core.fetch("UPDATE esteira_keeper SET database_started_at = database_started_at - interval '1 hour'")

    assert held(core, was_away=True)
    assert core.fetch("SELECT hold_until FROM esteira_keeper") == first

    core.fetch("UPDATE esteira_keeper SET hold_until = clock_timestamp() - interval '1 second'")
    assert not held(core, was_away=True), "a keeper whose own connection flaps would hold for ever"
    core.fetch("UPDATE esteira_keeper SET hold_until = clock_timestamp() - interval '1 hour'")
    assert held(core, was_away=True)


def test_a_rescued_job_goes_to_the_front(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    waiting = stored(core, 3)
    lost = running(core)[0]
    elapse(core, lost.id, "lease_until")

    sweep(core, was_away=False)
    DuePublisher(publisher).publish(core)

    assert hints(redis, priority=0) == [[str(lost.id)]]
    assert sorted(hints(redis)) == sorted([str(one)] for one in waiting)


# --- publish ----------------------------------------------------------------------------------------------------------


def test_only_what_a_living_worker_serves_is_published(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE, queues=("default", "mail"))
    serve(core, "test.silent", name="w2")
    core.fetch("UPDATE esteira_worker SET last_seen = last_seen - interval '1 minute' WHERE name = 'w2'")
    core.fetch(
        "INSERT INTO esteira_queue (name, paused_at, paused_by, reason) VALUES ('mail', clock_timestamp(), '', '')"
    )
    good = stored(core)
    stored(core, 5, type="test.silent")
    stored(core, 5, type="test.unknown")
    stored(core, 5, queue="mail")
    stored(core, 5, queue="elsewhere")

    published, full = DuePublisher(publisher).publish(core)

    assert (published, full) == (1, False)
    assert hints(redis) == [[str(good[0])]]


def test_two_thousand_jobs_of_an_unknown_type_do_not_delay_a_known_one(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    stored(core, 1000, type="test.unknown", priority=3)
    stored(core, 1000, type="test.unknown", priority=6)
    (known,) = stored(core, priority=9)

    DuePublisher(publisher).publish(core)

    assert hints(redis, priority=9) == [[str(known)]]


def test_measured_short_jobs_share_hints_and_others_go_alone(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    @job(name="test.alone", atomic=True)
    def alone(ctx: Context) -> None: ...

    @job(name="test.short")
    def short(ctx: Context) -> None: ...

    @job(name="test.long")
    def long(ctx: Context) -> None: ...

    for name in ("test.alone", "test.short"):
        typical(name, 0.01)
    typical("test.long", 0.5, runs=1)
    serve(core, "test.alone", "test.short", "test.long")
    for name in ("test.alone", "test.short", "test.long"):
        stored(core, 320, type=name)
    (solo,) = stored(core, type="test.short")
    core.fetch("UPDATE esteira_job SET solo = true WHERE id = %s", [solo])

    due_publisher = DuePublisher(publisher)
    while due_publisher.publish(core)[0]:
        pass

    sizes = sorted(len(ids) for ids in hints(redis))
    assert sizes[-16:] == [20] * 16, "200 ms of 10 ms each"
    assert set(sizes[:-16]) == {1}
    assert sum(sizes) == 961


def test_a_short_queue_goes_one_by_one(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    @job(name="test.short")
    def short(ctx: Context) -> None: ...

    typical("test.short", 0.001)
    serve(core, "test.short")
    stored(core, 7, type="test.short")

    DuePublisher(publisher).publish(core)

    assert [len(ids) for ids in hints(redis)] == [1] * 7


def test_a_full_list_is_left_alone_until_a_quarter_is_free(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 40
    stored(core, 200)
    (urgent,) = stored(core, priority=3)
    while due_publisher.publish(core)[0]:
        publisher._lengths.clear()

    assert 31 <= len(hints(redis)) <= 80
    assert hints(redis, priority=3) == [[str(urgent)]], "a full list of one priority does not hold up another"
    publisher._lengths.clear()
    assert due_publisher.publish(core) == (0, True)


def test_what_was_interrupted_is_fed_although_its_list_is_full(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    lost = running(core)[0]
    due_publisher = DuePublisher(publisher)
    due_publisher.window = 40
    stored(core, 200)
    while due_publisher.publish(core)[0]:
        publisher._lengths.clear()
    elapse(core, lost.id, "lease_until")
    sweep(core, was_away=False)

    assert due_publisher.publish(core)[0] == 1

    assert hints(redis, priority=0) == [[str(lost.id)]]


# --- compare with Redis -----------------------------------------------------------------------------------------------


@pytest.fixture
def published(core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis) -> list[UUID]:
    """Ten jobs whose hints went out a while ago."""
    serve(core, TYPE)
    ids = stored(core, 10)
    Reconciler(publisher).reconcile(core)  # writes the marker
    DuePublisher(publisher).publish(core)
    core.fetch("UPDATE esteira_job SET published_at = published_at - interval '1 minute'")
    assert len(hints(redis)) == 10
    return ids


def waiting(core: PrivateConnection) -> int:
    rows = core.fetch("SELECT count(*) FROM esteira_job WHERE state = 'queued' AND published_at IS NULL")
    return int(rows[0][0])


def test_nothing_is_done_while_every_hint_is_there(
    core: PrivateConnection, publisher: Publisher, published: list[UUID]
) -> None:
    assert Reconciler(publisher).reconcile(core) is False
    assert waiting(core) == 0


@pytest.mark.parametrize("how", ["flushall", "delete the list", "pop three"])
def test_missing_hints_are_fed_again(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, published: list[UUID], how: str
) -> None:
    if how == "flushall":
        redis.flushall()
    elif how == "delete the list":
        redis.delete(list_key("esteira:", "default", 6))
    else:
        redis.rpop(list_key("esteira:", "default", 6), 3)

    Reconciler(publisher).reconcile(core)

    assert waiting(core) == (3 if how == "pop three" else 10)
    assert redis.exists(f"esteira:{MARKER}")


def test_a_hint_on_its_way_is_not_missing(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    Reconciler(publisher).reconcile(core)
    stored(core, 3, publish=True)

    assert Reconciler(publisher).reconcile(core) is False
    assert waiting(core) == 0


def test_a_hint_that_a_worker_took_and_never_claimed_is_fed_again(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, published: list[UUID]
) -> None:
    redis.rpop(list_key("esteira:", "default", 6))

    assert Reconciler(publisher).reconcile(core) is True

    assert waiting(core) == 1


def test_a_long_window_is_compared_slice_by_slice(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    Reconciler(publisher).reconcile(core)
    for _ in range(3):
        stored(core, 1000, publish=True)
    core.fetch("UPDATE esteira_job SET published_at = published_at - interval '1 minute'")
    reconciler = Reconciler(publisher)

    turns = list(itertools.takewhile(bool, (reconciler.reconcile(core) for _ in range(10))))

    assert len(turns) == 3
    assert waiting(core) == 3000


def test_foreign_messages_in_our_lists_are_ignored(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, published: list[UUID]
) -> None:
    redis.lpush(list_key("esteira:", "default", 6), b"junk", b'{"body": 1}')

    assert Reconciler(publisher).reconcile(core) is False


def test_a_job_claimed_meanwhile_is_not_fed_again(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis, published: list[UUID]
) -> None:
    redis.flushall()
    claim(core, published[:4], worker="w1/x", delivery="d")

    Reconciler(publisher).reconcile(core)

    assert waiting(core) == 6


# --- a full Redis -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_redis(tmp_path: Any, settings: Any) -> Iterator[redis_client.Redis]:
    server = Valkey(tmp_path / "small", options={"maxmemory": "3mb"})
    server.start()
    settings.REDIS_URL = server.url
    with redis_client.Redis.from_url(server.url) as client:
        yield client
    server.stop()


def test_a_full_redis_is_relieved_and_fed_a_little_at_a_time(
    core: PrivateConnection, small_redis: redis_client.Redis
) -> None:
    serve(core, TYPE)
    for _ in range(5):
        stored(core, 1000)
    keeper = Keeper()
    with pytest.raises(redis_client.ResponseError, match="maxmemory"):
        for n in itertools.count():
            small_redis.lpush(list_key("esteira:", "default", 6), b"x" * 1000 + str(n).encode())

    until(
        lambda: keeper.turn() is not None and 0 < len(_parsed(small_redis)) <= 1000, "hints reach Redis again"
    )
    until(lambda: keeper.turn() is not None and _fits(small_redis), "and there is room for the workers")


def _parsed(client: redis_client.Redis) -> list[str]:
    try:
        return [one for ids in hints(client) for one in ids]
    except ValueError:
        return []


def _fits(client: redis_client.Redis) -> bool:
    try:
        return bool(client.hset("esteira:probe", "a", "b") or True)
    except redis_client.ResponseError:
        return False


# --- retention --------------------------------------------------------------------------------------------------------


def test_retention_deletes_old_jobs_with_all_that_hangs_on_them(
    core: PrivateConnection, settings: Any
) -> None:
    old, fresh, open_ = stored(core, 3)
    for one in (old, fresh):
        ended(core, one, "succeeded")
    for one in (old, fresh, open_):
        JobEvent.objects.create(job_id=one, kind="x")
        JobLog.objects.create(job_id=one, attempt=1, text="x")
        with files.open_result(one, 1, "f", db=core) as file:
            file.write(b"x" * 300_000)
    core.fetch("UPDATE esteira_job SET created_at = created_at - interval '60 days'")
    core.fetch("UPDATE esteira_job SET finished_at = finished_at - interval '31 days' WHERE id = %s", [old])

    keep(Retention(), core)

    assert set(Job.objects.values_list("pk", flat=True)) == {fresh, open_}
    assert JobEvent.objects.count() == JobLog.objects.count() == File.objects.count() == 2
    assert FileChunk.objects.count() == 4


def keep(retention: Retention, core: PrivateConnection) -> None:
    """Step until there is nothing left to delete: on a busy machine a box of time is short."""
    until(lambda: not retention.step(core), "nothing is left to delete")


def test_orphaned_files_go_after_a_day_and_uploads_after_the_retention(core: PrivateConnection) -> None:
    (job_id,) = stored(core)
    running_job = running(core)[0]
    for owner, attempt in ((job_id, 1), (running_job.id, 1)):
        with files.open_result(owner, attempt, "f", db=core) as file:
            file.write(b"x")
    upload = files.save_upload("u", None, [b"x"])
    core.fetch("UPDATE esteira_file SET created_at = created_at - interval '25 hours'")

    Retention().step(core)

    assert set(File.objects.values_list("job_id", flat=True)) == {running_job.id, None}
    core.fetch(
        "UPDATE esteira_file SET created_at = created_at - interval '40 days' WHERE id = %s", [upload.pk]
    )
    Retention().step(core)
    assert not File.objects.filter(pk=upload.pk).exists()


def test_retention_stops_when_its_time_is_up(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esteira.keeper.retention.BOX_S", 0)
    ids = [one for _ in range(2) for one in stored(core, 1000)]
    core.fetch(
        """UPDATE esteira_job SET state = 'cancelled', finished_at = clock_timestamp() - interval '40 days'
           WHERE id = ANY(%s)""",
        [ids],
    )
    retention = Retention()

    assert retention.step(core) is True
    assert 1000 < Job.objects.count() < 2000
    until(lambda: retention.step(core) is False and not Job.objects.exists(), "all are deleted", every=0)


# --- the scheduler that beat calls ------------------------------------------------------------------------------------


def test_the_plain_beat_command_runs_the_keeper_and_survives_its_errors(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Any
) -> None:
    from project.celery import app

    settings.RUN_DIR = tmp_path
    scheduler = KeeperScheduler(app)
    assert app.conf.beat_scheduler == "esteira.keeper.scheduler:KeeperScheduler"
    assert 0 <= scheduler.tick() <= 0.5
    assert (tmp_path / "beat.alive").exists()

    (tmp_path / "beat.ready").unlink()  # one that does not sweep lives, but is not ready
    monkeypatch.setattr("esteira.keeper.scheduler.Rescuer.step", _broken)
    monkeypatch.setattr("esteira.keeper.scheduler.SWEEP_S", 0.0)
    assert 0 <= scheduler.tick() <= 0.5
    assert not (tmp_path / "beat.ready").exists()
    monkeypatch.undo()
    scheduler.sync()
    scheduler.close()


def test_a_stop_that_a_type_s_own_code_swallowed_ends_beat_at_the_next_turn(
    settings: Any, tmp_path: Any
) -> None:
    """The signal's handler closes the scheduler and raises SystemExit, wherever beat is at that moment."""
    from project.celery import app

    settings.RUN_DIR = tmp_path
    scheduler = KeeperScheduler(app)
    scheduler.tick()

    scheduler.close()

    with pytest.raises(SystemExit):
        scheduler.tick()


def _broken(*_: Any, **__: Any) -> int:
    raise ZeroDivisionError("a bug")


def test_a_turn_with_a_database_that_is_away_is_short_and_is_remembered(
    core: PrivateConnection, settings: Any
) -> None:
    keeper = Keeper()
    keeper.turn()
    core.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'esteira keeper'"
    )
    job_id = running(core)[0].id
    elapse(core, job_id, "lease_until")
    held(core, was_away=False)
    keeper._swept = float("-inf")

    assert keeper.turn() <= 0.5
    assert keeper._was_away

    keeper._swept = float("-inf")
    keeper.turn()
    assert look(core, job_id).state == "running", "the sweep is on hold after the gap"


def test_nothing_here_uses_the_id_of_a_job_as_a_clock(
    core: PrivateConnection, publisher: Publisher, redis: redis_client.Redis
) -> None:
    """Ids made by clocks that disagree neither order nor decide anything."""
    serve(core, TYPE)
    late_id = UUID(int=uuid4().int | (0xFFF << 116))
    first = stored(core, id=late_id)[0]
    core.fetch("UPDATE esteira_job SET run_at = run_at - interval '1 hour' WHERE id = %s", [first])
    second = stored(core, id=UUID(int=7))[0]

    DuePublisher(publisher).publish(core)

    assert hints(redis) == [[str(first)], [str(second)]]
