"""When rescues wait: the database was away, stood still, or its clock stepped; and when they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.db.walk import within
from esteira.keeper.hold import Hold
from esteira.keeper.scheduler import Keeper
from esteira.keeper.turns import Turns
from esteira.record.lease import extend
from tests.conftest import SERVERS
from tests.support.database_clock import movable
from tests.support.jobs import elapse, look, running
from tests.support.waiting import Stopwatch, until

pytestmark = pytest.mark.usefixtures("database")

Move = Callable[[float], Any]


@pytest.fixture
def move(core: PrivateConnection) -> Iterator[Move]:
    with movable(SERVERS.postgres.url) as move:
        core.close()
        connection.close()
        yield move
        core.close()
        connection.close()


@pytest.fixture
def keeper(core: PrivateConnection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A keeper whose every turn does everything."""
    monkeypatch.setattr("esteira.keeper.scheduler.SWEEP_S", 0.0)
    keeper = Keeper()
    yield keeper
    keeper._db.close()


def end_hold(core: PrivateConnection) -> None:
    """As if the hold had begun so long ago that it is over, and another one might begin."""
    core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - interval '1 hour'")


def test_a_clock_that_steps_forward_by_more_than_a_lease_costs_no_living_job(
    core: PrivateConnection, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    job = running(core)[0]

    move(30)
    keeper.turn()

    assert look(core, job.id).state == "running"
    extend(core, [(job.id, job.attempt)])
    end_hold(core)
    keeper.turn()
    assert look(core, job.id).state == "running"


def test_after_a_step_forward_the_dead_are_rescued_once_the_living_had_their_time(
    core: PrivateConnection, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    job = running(core)[0]
    move(30)
    keeper.turn()

    end_hold(core)
    keeper.turn()

    assert look(core, job.id).state == "queued"


def test_after_a_step_backward_the_dead_are_rescued_and_the_living_are_not(
    core: PrivateConnection, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    dead, alive = running(core)[0], running(core)[0]

    move(-3600)
    keeper.turn()
    assert [look(core, one.id).state for one in (dead, alive)] == ["running", "running"]
    extend(core, [(alive.id, alive.attempt)])
    end_hold(core)
    keeper.turn()

    assert [look(core, one.id).state for one in (dead, alive)] == ["queued", "running"]
    assert look(core, dead.id).run_in < 1, "it runs again at once, not when the clock has caught up"


def test_a_keeper_that_starts_after_a_step_backward_sees_it_too(core: PrivateConnection, move: Move) -> None:
    Hold().look(core, Turns(), was_away=False)
    alive = running(core)[0]

    move(-3600)
    keeper = Keeper()
    keeper.turn()

    assert look(core, alive.id).state == "running"


def test_a_hold_that_was_in_force_when_the_clock_stepped_back_ends_all_the_same(
    core: PrivateConnection, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    Hold().look(core, Turns(), was_away=True)

    move(-3600)
    keeper.turn()

    rest_s = core.fetch(
        "SELECT extract(epoch FROM hold_until - clock_timestamp())::float FROM esteira_keeper"
    )
    assert 0 < rest_s[0][0] <= django_settings.ESTEIRA_LEASE_SECONDS / 2


def test_a_long_lease_waits_longer_for_its_process(core: PrivateConnection) -> None:
    """It is extended more seldom, so half of an ordinary lease is too short a time to show life."""
    Hold().look(core, Turns(), was_away=True)
    core.fetch("UPDATE esteira_keeper SET hold_until = clock_timestamp()")

    calm = Hold().look(core, Turns(), was_away=False)
    assert (
        django_settings.ESTEIRA_LEASE_SECONDS
        <= calm.longest_lease_s
        < 1.5 * django_settings.ESTEIRA_LEASE_SECONDS
    )

    core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - interval '1 minute'")
    assert Hold().look(core, Turns(), was_away=False).longest_lease_s == float("inf")


def test_leases_are_judged_at_the_moment_of_the_look(core: PrivateConnection, move: Move) -> None:
    """The database may stand still, or its clock may step, between the look and the rescue."""
    from esteira.keeper.rescue import Rescuer

    job = running(core)[0]
    calm = Hold().look(core, Turns(), was_away=False)

    move(30)

    assert Rescuer().step(core, calm) == 0
    assert look(core, job.id).state == "running"


@pytest.fixture
def quick(settings: Any, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A keeper of leases of three seconds, and of statements of one."""
    settings.ESTEIRA_LEASE_SECONDS = 3.0
    monkeypatch.setattr("esteira.keeper.scheduler.SWEEP_S", 0.0)
    quick = Keeper()
    yield quick
    quick._db.close()


def test_a_database_that_stood_still_and_lost_no_connection_holds_rescues(
    core: PrivateConnection, quick: Keeper
) -> None:
    quick.turn()
    job = running(core)[0]
    with quick._db.transaction():
        quick._db.fetch("SET LOCAL statement_timeout = 0")
        quick._db.fetch("SELECT pg_sleep(1.6)")  # as long as a server that is frozen
    elapse(core, job.id, "lease_until")

    quick.turn()

    assert look(core, job.id).state == "running"


def test_a_server_that_stands_still_under_the_look_itself_holds_rescues(
    core: PrivateConnection, quick: Keeper
) -> None:
    quick.turn()
    job = running(core)[0]
    elapse(core, job.id, "lease_until")
    hold_look = quick._hold.look

    def slowly(db: Any, turns: Turns, *, was_away: bool) -> Any:
        with quick._db.transaction():
            quick._db.fetch("SET LOCAL statement_timeout = 0")
            quick._db.fetch("SELECT pg_sleep(1.6)")
        quick._hold.look = hold_look  # type: ignore[method-assign]
        return hold_look(db, turns, was_away=was_away)

    quick._hold.look = slowly  # type: ignore[method-assign]
    quick.turn()

    assert look(core, job.id).state == "running"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
@pytest.mark.parametrize("ends", ["between two turns", "while the keeper waits"])
def test_a_lock_on_all_jobs_that_lasts_longer_than_a_lease_costs_no_living_job(
    core: PrivateConnection, quick: Keeper, mode: str, ends: str
) -> None:
    """As an ALTER TABLE or a CREATE INDEX: what runs cannot extend its leases meanwhile."""
    alive, dead = running(core, lease_s=3.0)[0], running(core, lease_s=3.0)[0]
    for _ in range(7):  # by then its statements are prepared
        quick.turn()
    with psycopg.connect(SERVERS.postgres.url) as somebody:
        somebody.execute(f"LOCK TABLE esteira_job IN {mode} MODE")
        watch = Stopwatch()
        until(lambda: quick.turn() is not None and watch.seconds > 5, "all leases have ended")
        assert "rescue" in quick._turns.failing()

        if ends == "while the keeper waits":
            timer = threading.Timer(0.4, somebody.rollback)
            timer.start()
            quick.turn()
            timer.join()
        else:
            somebody.rollback()
            quick.turn()
    assert [look(core, one.id).state for one in (alive, dead)] == ["running", "running"]

    quick.turn()
    assert [look(core, one.id).state for one in (alive, dead)] == ["running", "running"]
    extend(core, [(alive.id, alive.attempt)])
    end_hold(core)
    until(lambda: _turned(quick, core, dead.id) == "queued", "the dead one is rescued", timeout=10)
    assert look(core, alive.id).state == "running"


def test_a_statement_within_its_limit_is_no_server_that_stands_still(
    core: PrivateConnection, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases of one second: a slow batch of the retention's takes longer than half of one."""
    settings.ESTEIRA_LEASE_SECONDS = 1.0
    monkeypatch.setattr("esteira.keeper.scheduler.SWEEP_S", 0.0)
    keeper = Keeper()
    keeper.turn()
    lost = running(core)[0]
    elapse(core, lost.id, "lease_until")
    keeper._db.fetch("SELECT pg_sleep(0.8)")

    keeper.turn()

    assert look(core, lost.id).state == "queued"
    keeper._db.close()


def test_a_walk_never_waits_longer_than_its_connection_would(core: PrivateConnection) -> None:
    brief = PrivateConnection("test", timeout_s=0.5)
    began = core.fetch("SELECT clock_timestamp()")[0][0]
    assert within(brief, 2.0, lambda: brief.fetch("SELECT pg_sleep(1.4)")) is None
    assert (core.fetch("SELECT clock_timestamp()")[0][0] - began).total_seconds() < 5
    assert within(brief, 0.3, lambda: brief.fetch("SELECT current_setting('statement_timeout')")) == [
        ("300ms",)
    ]
    brief.close()


@pytest.fixture
def long_type(job_types: None) -> None:
    @job(name="test.long", lease=60)
    def long(ctx: Context) -> None: ...


def test_after_a_step_forward_a_long_lease_has_half_of_its_own_length(
    core: PrivateConnection, keeper: Keeper, move: Move, long_type: None
) -> None:
    """Its process extends it every quarter of it, which an ordinary lease does not wait for."""
    keeper.turn()
    alive = running(core, lease_s=60.0)[0]

    move(70)
    for ago_s in (0, 10, 15):
        core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - %s * interval '1 second'", [ago_s])
        keeper.turn()
        assert look(core, alive.id).state == "running", ago_s

    core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - interval '10 seconds'")
    keeper.turn()
    assert look(core, alive.id).state == "queued", "nobody extended it for half of its length"


def test_holds_that_begin_again_and_again_keep_no_lease_from_being_judged(
    core: PrivateConnection, move: Move, long_type: None
) -> None:
    """A keeper whose connection breaks all the time holds rescues for a third of the time."""
    hold, judged = Hold(), {}
    for seconds in range(0, 200, 2):
        longest_s = hold.look(core, Turns(), was_away=True).longest_lease_s
        for lease_s in (10, 60, 86400):
            if longest_s >= lease_s:
                judged.setdefault(lease_s, seconds)
        move(2)
        hold._looked -= 2  # two seconds pass for both clocks

    assert 4 <= judged[10] <= 8
    assert 28 <= judged[60] <= 40
    assert 60 <= judged[86400] <= 80, "of another release, which knew of longer leases"


def test_a_step_that_waits_for_a_lock_holds_no_rescue_and_keeps_no_other_step(
    core: PrivateConnection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.turn()
    keeper._db.fetch("SET lock_timeout = '100ms'")
    lost = running(core)[0]
    elapse(core, lost.id, "lease_until")
    with psycopg.connect(SERVERS.postgres.url) as somebody:
        somebody.execute("LOCK TABLE esteira_scheduleskip IN ACCESS EXCLUSIVE MODE")  # retention needs it
        until(lambda: _turned(keeper, core, lost.id) == "queued", "the lost job is rescued all the same")

        assert not keeper._was_away
        assert core.fetch("SELECT hold_until > clock_timestamp() FROM esteira_keeper") in [
            [(None,)],
            [(False,)],
        ]


def _turned(keeper: Keeper, core: PrivateConnection, job_id: UUID) -> str:
    keeper.turn()
    return str(look(core, job_id).state)


def test_looks_of_many_keepers_do_not_hold_each_other_up(core: PrivateConnection) -> None:
    one, other = Hold(), Hold()
    for _ in range(3):
        for hold in (one, other):
            assert hold.look(core, Turns(), was_away=False).longest_lease_s == float("inf")
