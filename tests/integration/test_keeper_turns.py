"""A keeper's turn: a step that fails is reported, and the other steps still run."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
import redis as redis_client
from django.db import OperationalError, connections
from pydantic import AfterValidator

from esteira import Context, job
from esteira.db import Db, PrivateConnection
from esteira.keeper.publish import DuePublisher
from esteira.keeper.scheduler import Keeper
from esteira.keeper.turns import STEPS, Turns
from esteira.models import Job, Schedule
from esteira_web.server.metrics import Page
from tests.conftest import SERVERS
from tests.integration.test_keeper_steps import hints, serve
from tests.support.jobs import TYPE, elapse, look, running, stored
from tests.support.waiting import Stopwatch, until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture
def keeper(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> Iterator[Keeper]:
    """A keeper whose every turn does everything."""
    settings.RUN_DIR = tmp_path
    for pace in ("SWEEP_S", "DECLARE_S", "CHECK_S"):
        monkeypatch.setattr(f"esteira.keeper.scheduler.{pace}", 0.0)
    keeper = Keeper()
    yield keeper
    keeper._db.close()


def due(type: str, name: str = "s", **fields: Any) -> Schedule:
    """A schedule of every second whose last tick was five seconds ago."""
    one = Schedule.objects.create(
        **{"name": name, "type": type, "every_s": 1, "origin": "database", **fields}
    )
    with psycopg.connect(SERVERS.postgres.url) as db:
        db.execute(
            """UPDATE esteira_schedule SET last_tick_at = last_tick_at - interval '5 s',
                 anchor_at = anchor_at - interval '5 s' WHERE id = %s""",
            [one.pk],
        )
    one.refresh_from_db()
    return one


def declare_bad_types() -> None:
    @job(name="test.day", unique="{day:%Y-%m-%d}")
    def day(ctx: Context, day: date | None = None) -> None: ...

    @job(name="test.validator")
    def validator(ctx: Context, x: Annotated[str, AfterValidator(lambda v: v.no_such)] = "a") -> None: ...

    @job(name="test.long", unique="{text}")
    def long(ctx: Context, text: str = "") -> None: ...

    @job(name="test.plain")
    def plain(ctx: Context) -> None: ...


class Mute(Exception):
    """What cannot even be told."""

    def __str__(self) -> str:
        raise SystemExit("mute")


class Bad(ValueError):
    def __str__(self) -> str:
        raise ZeroDivisionError


def away(of: str) -> Any:
    """A validator that looks into a database that does not answer."""

    def look(value: str) -> str:
        with connections[of].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return value

    return look


def raises(error: BaseException) -> Any:
    def check(value: str) -> str:
        raise error

    return check


def slow(value: str) -> str:
    with connections["default"].cursor() as cursor:
        cursor.execute("SET statement_timeout = '20ms'; SELECT pg_sleep(5)")
    return value


def read(value: str) -> str:
    Job.objects.exists()
    return value


class Formatted(str):
    def __format__(self, spec: str) -> str:
        raise OperationalError("the connection is closed")


def checked(value: str) -> str:
    """What the type of these tests checks its parameter with."""
    return str(CHECK["now"](value))


CHECK: dict[str, Any] = {"now": str}
#: What a type's own code does while its parameters are checked.
OWN_CODE: dict[str, Any] = {
    "reads from a database that goes away": away("default"),
    "says that the database is away": raises(OperationalError("the connection is closed")),
    "says it in the driver's words": raises(psycopg.InterfaceError("the connection is closed")),
    "is cancelled by the server": slow,
    "raises what cannot be told": raises(Mute()),
    "refuses with what cannot be told": raises(Bad()),
    "leaves": raises(SystemExit(1)),
    "raises what is no exception": raises(GeneratorExit()),
}


@pytest.mark.parametrize("what", OWN_CODE)
def test_whatever_a_type_s_own_code_raises_is_the_failure_of_its_schedule_alone(
    core: PrivateConnection,
    keeper: Keeper,
    redis: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    declare_bad_types()

    @job(name="test.own")
    def own(ctx: Context, x: Annotated[str, AfterValidator(checked)] = "a") -> None: ...

    monkeypatch.setitem(CHECK, "now", OWN_CODE[what])

    bad, good = due("test.own", "bad"), due("test.plain", "good")
    serve(core, "test.plain")
    waiting = stored(core, 10, type="test.plain")

    keeper.turn()

    assert not keeper._was_away
    assert keeper._turns.whole
    assert Job.objects.filter(schedule=good).count() >= 5
    assert {str(one) for one in waiting} <= {one for message in hints(redis) for one in message}
    told = core.fetch(
        "SELECT error, failures, retry_at > error_at, last_tick_at = %s FROM esteira_schedule WHERE id = %s",
        [bad.last_tick_at, bad.pk],
    )
    assert told[0][1:] == (1, True, True), "it is tried again; no tick is lost"
    assert "own code" in told[0][0]


def test_a_key_whose_making_says_that_the_database_is_away_fails_alone(
    core: PrivateConnection, keeper: Keeper
) -> None:
    @job(name="test.key", unique="{x}")
    def key(ctx: Context, x: Annotated[str, AfterValidator(Formatted)] = "a") -> None: ...

    bad = due("test.key", "bad")

    keeper.turn()

    bad.refresh_from_db()
    assert not keeper._was_away
    assert (bad.failures, "unique" in bad.error) == (1, True)


def test_a_type_whose_connection_broke_gets_another_one_at_its_next_try(
    core: PrivateConnection, keeper: Keeper
) -> None:
    """Nobody else closes it: beat has no requests."""

    @job(name="test.reads")
    def reads(ctx: Context, x: Annotated[str, AfterValidator(read)] = "a") -> None: ...

    one = due("test.reads")
    keeper.turn()
    assert Job.objects.filter(schedule=one).exists()
    for aware in (True, False):  # of the end of its connection
        if aware:
            with pytest.raises(OperationalError), connections["default"].cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        else:
            pid = connections["default"].connection.info.backend_pid
            core.fetch("SELECT pg_terminate_backend(%s)", [pid])
        core.fetch(
            """UPDATE esteira_schedule SET retry_at = NULL, anchor_at = anchor_at - interval '5 s',
                 last_tick_at = last_tick_at - interval '5 s'"""
        )
        core.fetch("TRUNCATE esteira_job CASCADE")
        until(lambda: keeper.turn() is not None and _jobs(core) > 0, "its jobs are submitted again")


def _jobs(core: PrivateConnection) -> int:
    return int(core.fetch("SELECT count(*) FROM esteira_job")[0][0])


def test_a_scheduled_job_s_key_has_the_bounds_of_every_other_key(
    core: PrivateConnection, keeper: Keeper
) -> None:
    @job(name="test.text", unique="{text}")
    def text(ctx: Context, text: str = "") -> None: ...

    long, fine = (
        due("test.text", "long", params={"text": "x" * 201}),
        due("test.text", "fine", params={"text": "x"}),
    )

    keeper.turn()

    long.refresh_from_db()
    assert "makes a unique key of 201 characters; at most 200" in long.error
    assert not Job.objects.filter(schedule=long).exists()
    assert Job.objects.get(schedule=fine).unique_key == "test.text:x"


RANDOM = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=6000))
BAD: dict[str, dict[str, Any]] = {
    "no day": {"type": "test.day"},
    "a validator that raises": {"type": "test.validator"},
    "a key that no index takes": {"type": "test.long", "params": {"text": RANDOM}},
    "an interval beyond the calendar": {"type": "test.plain", "every_s": 3e11},
    "an interval beyond all numbers": {"type": "test.plain", "every_s": 8e13},
    "a zone that is none": {"type": "test.plain", "every_s": 0, "cron": "* * * * *", "tz": "Nowhere/At_All"},
    "a grace that is no number": {"type": "test.plain", "grace_s": float("nan")},
    "parameters that cannot be read": {"type": "test.plain", "params": {}},
}


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("what", BAD)
def test_a_schedule_that_cannot_be_kept_stops_no_step_and_no_other_schedule(
    core: PrivateConnection, keeper: Keeper, redis: redis_client.Redis, what: str
) -> None:
    declare_bad_types()
    bad, good = due(**{"name": "bad", **BAD[what]}), due("test.plain", "good")
    if what == "parameters that cannot be read":
        core.fetch(
            "UPDATE esteira_schedule SET params = jsonb_build_object('n', 10::numeric ^ 9000) WHERE name = 'bad'"
        )
    serve(core, "test.plain")
    waiting = stored(core, 10, type="test.plain")

    keeper.turn()

    assert Job.objects.filter(schedule=good).count() >= 5
    assert {str(one) for one in waiting} <= {one for message in hints(redis) for one in message}
    said = core.fetch(
        """SELECT error <> '', failures, retry_at > error_at, last_tick_at = %s
           FROM esteira_schedule WHERE id = %s""",
        [bad.last_tick_at, bad.pk],
    )
    assert said == [(True, 1, True, True)], "it is told, and tried again; no tick is lost"


@pytest.mark.usefixtures("unbound")
def test_a_row_of_moments_that_python_cannot_hold_begins_again_and_harms_no_other(
    core: PrivateConnection, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    declare_bad_types()
    bad, good = due("test.plain", "bad"), due("test.plain", "good")
    for moment in ("infinity", "-infinity", "20000-01-01Z", "0044-03-15Z BC"):
        core.fetch(
            "UPDATE esteira_schedule SET last_tick_at = %s, anchor_at = %s WHERE name = 'bad'", [moment] * 2
        )
        keeper.turn()
        bad.refresh_from_db()
        assert bad.last_tick_at.year > 2000
        assert (bad.error, bad.error_at) == ("", None), "what begins again is not broken"
    assert "schedule bad: Its last tick lay in the future" in caplog.text
    assert Job.objects.filter(schedule=good).count() >= 5


def test_a_failing_schedule_is_tried_again_with_a_growing_pause_and_cleared_by_success(
    core: PrivateConnection, keeper: Keeper
) -> None:
    declare_bad_types()
    bad = due("test.day")
    pauses = []
    for _ in range(12):
        keeper.turn()
        keeper.turn()  # before the pause is over: not tried
        pauses.append(
            core.fetch(
                "SELECT extract(epoch FROM retry_at - error_at)::float, failures FROM esteira_schedule"
            )[0]
        )
        core.fetch("UPDATE esteira_schedule SET retry_at = clock_timestamp()")

    assert [round(seconds) for seconds, _ in pauses] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert [tries for _, tries in pauses] == list(range(1, 13))

    Schedule.objects.filter(pk=bad.pk).update(params={"day": "2026-01-31"})
    keeper.turn()
    bad.refresh_from_db()
    assert (bad.error, bad.failures, bad.retry_at) == ("", 0, None)
    assert Job.objects.filter(schedule=bad).exists()


def test_an_open_transaction_that_holds_a_schedule_s_key_makes_nobody_wait(
    core: PrivateConnection, keeper: Keeper, redis: redis_client.Redis
) -> None:
    @job(name="test.report", unique="daily")
    def report(ctx: Context) -> None: ...

    one = due("test.report")
    serve(core, TYPE)
    waiting = stored(core, 10)
    lost = running(core)[0]
    elapse(core, lost.id, "lease_until")
    keeper.turn()
    core.fetch("UPDATE esteira_schedule SET last_tick_at = last_tick_at - interval '5 s', retry_at = NULL")
    core.fetch("DELETE FROM esteira_scheduleskip")
    core.fetch(
        "UPDATE esteira_job SET state = 'cancelled', finished_at = clock_timestamp() WHERE tick_at IS NOT NULL"
    )
    core.fetch("DELETE FROM esteira_job WHERE tick_at IS NOT NULL")
    one.refresh_from_db()

    with psycopg.connect(SERVERS.postgres.url) as somebody:
        somebody.execute(
            """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s,
                 unique_key, run_at)
               VALUES (gen_random_uuid(), 'test.report', '{}', 'default', 6, 1, 1, 10, 600, 'test.report:daily',
                 clock_timestamp())"""
        )
        watch = Stopwatch()
        keeper.turn()

        assert watch.seconds < 2.5
        assert not keeper._was_away
        assert keeper._turns.whole
        blocked = Schedule.objects.get()
        assert "open transaction" in blocked.error
        assert blocked.last_tick_at == one.last_tick_at, "its ticks are not lost"
        somebody.rollback()

    core.fetch("UPDATE esteira_schedule SET retry_at = NULL")
    keeper.turn()
    assert Job.objects.filter(schedule=one).count() == 1
    assert Schedule.objects.get().error == ""
    assert look(core, lost.id).state == "queued"
    assert len(hints(redis)) >= len(waiting)


def test_a_queue_that_cannot_be_fed_keeps_no_other_from_its_hints_and_is_told_once(
    core: PrivateConnection,
    keeper: Keeper,
    redis: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    publish = DuePublisher._publish

    def fails_for_default(self: DuePublisher, db: Db, queue: str, types: Sequence[str]) -> tuple[int, bool]:
        return broken() if queue == "default" else publish(self, db, queue, types)

    monkeypatch.setattr(DuePublisher, "_publish", fails_for_default)
    serve(core, TYPE, queues=("default", "mail"))
    stored(core)
    (letter,) = stored(core, queue="mail")

    for _ in range(3):
        keeper.turn()

    assert hints(redis, queue="mail") == [[str(letter)]]
    failing = core.fetch("SELECT failing->%s->'steps' FROM esteira_keeper", [keeper._turns.me])[0][0]
    assert list(failing) == ["publish"]
    assert core.fetch("SELECT last_sweep IS NULL FROM esteira_keeper") == [(True,)]
    assert not (tmp_path / "beat.ready").exists()
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_what_other_queues_have_behind_them_is_fed_at_once_although_one_fails(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        DuePublisher, "_publish", lambda _, __, queue, ___: broken() if queue == "default" else (1000, True)
    )
    serve(core, TYPE, queues=("default", "mail"))

    assert keeper.turn() == 0.0


@pytest.mark.parametrize("queues", ['{"default": 1}', '"default"', "7", "null", "[null]", '[["default"], 8]'])
@pytest.mark.parametrize("column", ["queues", "types"])
def test_an_announcement_that_is_no_list_of_names_stops_neither_publish_nor_compare(
    core: PrivateConnection, keeper: Keeper, redis: redis_client.Redis, column: str, queues: str
) -> None:
    serve(core, TYPE)
    serve(core, TYPE, name="strange")
    core.fetch(f"UPDATE esteira_worker SET {column} = %s::jsonb WHERE name = 'strange'", [queues])
    (waiting,) = stored(core)

    keeper.turn()

    assert keeper._turns.whole
    assert hints(redis) == [[str(waiting)]]


STEP_CODE = {
    "rescue": "esteira.keeper.rescue.Rescuer.step",
    "expire": "esteira.keeper.rescue.Expirer.step",
    "declarations": "esteira.keeper.scheduler.keep_declared",
    "schedules": "esteira.keeper.scheduler.write_ticks",
    "reconcile": "esteira.keeper.reconcile.Reconciler.reconcile",
    "publish": "esteira.keeper.publish.DuePublisher.publish",
    "retention": "esteira.keeper.retention.Retention.step",
}


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_keeps_no_other_from_its_turn_and_is_told(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    """Not even *ready* hides it: that means that every step of a turn went through."""
    taken: list[str] = []
    keeper._turns.went_through = taken.append  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(STEP_CODE[step], broken)
    page = Page()

    keeper.turn()
    keeper.turn()

    assert [one for one in STEPS if one not in taken] == [step]
    assert not (tmp_path / "beat.ready").exists()
    assert core.fetch("SELECT last_sweep IS NULL, last_turn IS NULL FROM esteira_keeper") == [(True, False)]
    failing = core.fetch("SELECT failing->%s->'steps' FROM esteira_keeper", [keeper._turns.me])[0][0]
    assert list(failing) == [step]
    assert failing[step]["message"] == "ZeroDivisionError: a bug"
    text = page()
    page.close()
    for one in STEPS:
        assert f'esteira_keeper_step_failing{{step="{one}"}} {1.0 if one == step else 0.0}' in text


def test_beat_shows_that_it_lives_in_each_step_and_between_statements(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every step may wait for seconds, again and again: who looks at the file must not take that for a stop."""
    alive, touched = tmp_path / "beat.alive", []

    def note(step: str) -> None:
        touched.append((step, alive.exists()))
        alive.unlink(missing_ok=True)

    keeper._turns.went_through = note  # type: ignore[method-assign]
    keeper.turn()
    assert touched == [(step, True) for step in STEPS]

    monkeypatch.setattr("esteira.keeper.scheduler.TOUCH_S", 0.0)
    keeper._db.fetch("SELECT 1")
    assert alive.exists()


def test_a_step_that_goes_through_again_is_told_no_more(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("esteira.keeper.rescue.Expirer.step", broken)
        keeper.turn()
        keeper.turn()
    assert core.fetch("SELECT failing = '{}' FROM esteira_keeper") == [(False,)]

    keeper.turn()
    keeper.turn()

    assert core.fetch("SELECT failing = '{}', last_sweep IS NOT NULL FROM esteira_keeper") == [(True, True)]
    assert (tmp_path / "beat.ready").exists()


def test_what_another_keeper_said_stays_until_that_one_is_silent(
    core: PrivateConnection, keeper: Keeper
) -> None:
    other = Turns()
    other.me = "elsewhere:1"
    other.failed("publish", ZeroDivisionError("a bug"), None)
    keeper._hold.look(core, other, was_away=False)

    keeper.turn()
    assert core.fetch("SELECT failing ? 'elsewhere:1' FROM esteira_keeper") == [(True,)]

    core.fetch(
        """UPDATE esteira_keeper SET failing = jsonb_set(failing, '{elsewhere:1,at}',
             to_jsonb(clock_timestamp() - interval '2 minutes'))"""
    )
    keeper.turn()
    assert core.fetch("SELECT failing FROM esteira_keeper") == [({},)]


def test_a_keeper_whose_row_was_deleted_makes_it_again(core: PrivateConnection, keeper: Keeper) -> None:
    core.fetch("DELETE FROM esteira_keeper")

    keeper.turn()
    keeper.turn()

    assert core.fetch("SELECT last_sweep IS NOT NULL FROM esteira_keeper") == [(True,)]


def test_a_turn_with_nothing_to_do_takes_few_statements(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a way to the server and back, twice a second and in every beat; about ten make a turn."""
    serve(core, TYPE)
    stored(core, 3)
    keeper._retention.step(core)  # has its own pace
    for _ in range(3):
        keeper.turn()
    said: list[str] = []
    once = PrivateConnection._once
    monkeypatch.setattr(
        PrivateConnection, "_once", lambda self, sql, params: said.append(sql) or once(self, sql, params)
    )
    transactions: list[None] = []
    transaction = PrivateConnection.transaction
    monkeypatch.setattr(
        PrivateConnection, "transaction", lambda self: transactions.append(None) or transaction(self)
    )

    for _ in range(4):
        keeper.turn()

    assert len(said) + 2 * len(transactions) <= 4 * 18, said
