"""A keeper's turn is as good as its steps: one that fails is told, and keeps no other from its turn."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
import redis as redis_client
from pydantic import AfterValidator

from esteira import Context, job
from esteira.db import Core
from esteira.keeper import Keeper
from esteira.models import Job, Schedule
from esteira.turns import STEPS, Turns
from tests.conftest import SERVERS
from tests.integration.test_keeper import hints, serve
from tests.support.jobs import TYPE, elapse, look, running, stored
from tests.support.waiting import Stopwatch
from web.metrics import Page

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture
def keeper(core: Core, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Iterator[Keeper]:
    """A keeper whose every turn does everything."""
    settings.RUN_DIR = tmp_path
    for pace in ("SWEEP_S", "DECLARE_S", "CHECK_S"):
        monkeypatch.setattr(f"esteira.keeper.{pace}", 0.0)
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
    core: Core, keeper: Keeper, redis: redis_client.Redis, what: str
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
    core: Core, keeper: Keeper
) -> None:
    declare_bad_types()
    bad, good = due("test.plain", "bad"), due("test.plain", "good")
    for moment in ("infinity", "-infinity", "20000-01-01Z", "0044-03-15Z BC"):
        core.fetch(
            "UPDATE esteira_schedule SET last_tick_at = %s, anchor_at = %s WHERE name = 'bad'", [moment] * 2
        )
        keeper.turn()
        bad.refresh_from_db()
        assert "again" in bad.error
    assert Job.objects.filter(schedule=good).count() >= 5


def test_a_failing_schedule_is_tried_again_with_a_growing_pause_and_cleared_by_success(
    core: Core, keeper: Keeper
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
    core: Core, keeper: Keeper, redis: redis_client.Redis
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


STEP_CODE = {
    "rescue": "esteira.sweep.Rescuer.step",
    "expire": "esteira.sweep.Expirer.step",
    "declarations": "esteira.keeper.keep_declared",
    "schedules": "esteira.keeper.write_ticks",
    "compare": "esteira.missing.Checker.check",
    "feed": "esteira.feed.Feeder.feed",
    "retention": "esteira.retention.Retention.step",
}


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_keeps_no_other_from_its_turn_and_is_told(
    core: Core, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
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


def test_a_step_that_goes_through_again_is_told_no_more(
    core: Core, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("esteira.sweep.Expirer.step", broken)
        keeper.turn()
        keeper.turn()
    assert core.fetch("SELECT failing = '{}' FROM esteira_keeper") == [(False,)]

    keeper.turn()
    keeper.turn()

    assert core.fetch("SELECT failing = '{}', last_sweep IS NOT NULL FROM esteira_keeper") == [(True, True)]
    assert (tmp_path / "beat.ready").exists()


def test_what_another_keeper_said_stays_until_that_one_is_silent(core: Core, keeper: Keeper) -> None:
    other = Turns()
    other.me = "elsewhere:1"
    other.failed("feed", ZeroDivisionError("a bug"), None)
    keeper._hold.look(core, other, was_away=False)

    keeper.turn()
    assert core.fetch("SELECT failing ? 'elsewhere:1' FROM esteira_keeper") == [(True,)]

    core.fetch(
        """UPDATE esteira_keeper SET failing = jsonb_set(failing, '{elsewhere:1,at}',
             to_jsonb(clock_timestamp() - interval '2 minutes'))"""
    )
    keeper.turn()
    assert core.fetch("SELECT failing FROM esteira_keeper") == [({},)]


def test_a_keeper_whose_row_was_deleted_makes_it_again(core: Core, keeper: Keeper) -> None:
    core.fetch("DELETE FROM esteira_keeper")

    keeper.turn()
    keeper.turn()

    assert core.fetch("SELECT last_sweep IS NOT NULL FROM esteira_keeper") == [(True,)]
