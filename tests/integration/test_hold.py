"""When rescues wait: the database was away, stood still, or its clock stepped; and when they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection

from esteira.db import Core
from esteira.hold import Hold
from esteira.keeper import Keeper
from esteira.record.finish import extend
from esteira.turns import Turns
from tests.conftest import SERVERS
from tests.support.clocks import movable
from tests.support.jobs import elapse, look, running
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database")

Move = Callable[[float], Any]


@pytest.fixture
def move(core: Core) -> Iterator[Move]:
    with movable(SERVERS.postgres.url) as move:
        core.close()
        connection.close()
        yield move
        core.close()
        connection.close()


@pytest.fixture
def keeper(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A keeper whose every turn does everything."""
    monkeypatch.setattr("esteira.keeper.SWEEP_S", 0.0)
    keeper = Keeper()
    yield keeper
    keeper._db.close()


def end_hold(core: Core) -> None:
    """As if the hold had begun so long ago that it is over, and another one might begin."""
    core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - interval '1 hour'")


def test_a_clock_that_steps_forward_by_more_than_a_lease_costs_no_living_job(
    core: Core, keeper: Keeper, move: Move
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
    core: Core, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    job = running(core)[0]
    move(30)
    keeper.turn()

    end_hold(core)
    keeper.turn()

    assert look(core, job.id).state == "queued"


def test_after_a_step_backward_the_dead_are_rescued_and_the_living_are_not(
    core: Core, keeper: Keeper, move: Move
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


def test_a_keeper_that_starts_after_a_step_backward_sees_it_too(core: Core, move: Move) -> None:
    Hold().look(core, Turns(), was_away=False)
    alive = running(core)[0]

    move(-3600)
    keeper = Keeper()
    keeper.turn()

    assert look(core, alive.id).state == "running"


def test_a_hold_that_was_in_force_when_the_clock_stepped_back_ends_all_the_same(
    core: Core, keeper: Keeper, move: Move
) -> None:
    keeper.turn()
    Hold().look(core, Turns(), was_away=True)

    move(-3600)
    keeper.turn()

    rest_s = core.fetch(
        "SELECT extract(epoch FROM hold_until - clock_timestamp())::float FROM esteira_keeper"
    )
    assert 0 < rest_s[0][0] <= django_settings.LEASE_SECONDS / 2


def test_a_long_lease_waits_longer_for_its_process(core: Core) -> None:
    """It is extended more seldom, so half of an ordinary lease is too short a time to show life."""
    Hold().look(core, Turns(), was_away=True)
    core.fetch("UPDATE esteira_keeper SET hold_until = clock_timestamp()")

    calm = Hold().look(core, Turns(), was_away=False)
    assert django_settings.LEASE_SECONDS <= calm.longest_lease_s < 1.5 * django_settings.LEASE_SECONDS

    core.fetch("UPDATE esteira_keeper SET hold_until = hold_until - interval '1 minute'")
    assert Hold().look(core, Turns(), was_away=False).longest_lease_s == float("inf")


def test_leases_are_judged_at_the_moment_of_the_look(core: Core, move: Move) -> None:
    """The database may stand still, or its clock may step, between the look and the rescue."""
    from esteira.sweep import Rescuer

    job = running(core)[0]
    calm = Hold().look(core, Turns(), was_away=False)

    move(30)

    assert Rescuer().step(core, calm) == 0
    assert look(core, job.id).state == "running"


def test_a_database_that_stood_still_and_lost_no_connection_holds_rescues(
    core: Core, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.turn()
    job = running(core)[0]
    monkeypatch.setattr(django_settings, "LEASE_SECONDS", 1.0)
    keeper._db.fetch("SELECT pg_sleep(0.6)")  # as long as a server that is frozen
    elapse(core, job.id, "lease_until")

    keeper.turn()

    assert look(core, job.id).state == "running"


def test_a_step_that_waits_for_a_lock_holds_no_rescue_and_keeps_no_other_step(
    core: Core, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
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


def _turned(keeper: Keeper, core: Core, job_id: UUID) -> str:
    keeper.turn()
    return str(look(core, job_id).state)


def test_looks_of_many_keepers_do_not_hold_each_other_up(core: Core) -> None:
    one, other = Hold(), Hold()
    for _ in range(3):
        for hold in (one, other):
            assert hold.look(core, Turns(), was_away=False).longest_lease_s == float("inf")
