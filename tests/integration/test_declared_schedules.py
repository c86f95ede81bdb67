"""Which release's declared schedules are stored: those of the newest running release, in any order of starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from esteira import Context, cron, every, job, releases
from esteira.db import PrivateConnection
from esteira.job_types.registry import registry
from esteira.keeper.declared import keep_declared, write_declared
from esteira.keeper.scheduler import Keeper
from esteira.keeper.schedules import write_ticks
from esteira.models import Job, Release, Schedule
from esteira.worker import identity
from tests.conftest import SERVERS
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture(autouse=True)
def new_type(job_types: None) -> None:
    """What the new release declares, beside all that both do."""

    @job(name="test.new", schedule=every(hours=6))
    def new(ctx: Context) -> None: ...


@contextmanager
def old_release() -> Iterator[None]:
    """Be a process of the release before, which does not know the new type."""
    kept = registry.get("test.new")
    registry.remove("test.new")
    try:
        yield
    finally:
        registry.add(kept)


def silent(core: PrivateConnection) -> None:
    """Let time pass in which no process said anything."""
    core.fetch("UPDATE esteira_release SET last_seen = last_seen - interval '1 minute'")


def migrate() -> None:
    call_command("migrate", verbosity=0)


def row() -> Schedule:
    return Schedule.objects.get(name="test.new")


def now(core: PrivateConnection) -> datetime:
    moment: datetime = core.fetch("SELECT clock_timestamp()")[0][0]
    return moment


def roll_out(core: PrivateConnection) -> None:
    """The old release ran; the new one has migrated, and runs for five hours."""
    with old_release():
        migrate()
    migrate()
    core.fetch(
        """UPDATE esteira_schedule SET last_tick_at = last_tick_at - interval '5 hours',
             anchor_at = anchor_at - interval '5 hours'"""
    )


def test_migrate_writes_declared_schedules(core: PrivateConnection) -> None:
    @job(
        name="test.nightly",
        schedule=cron("0 3 * * *", tz="America/Sao_Paulo"),
        overlap="skip",
        missed="skip",
        grace=30,
    )
    def nightly(ctx: Context) -> None: ...

    write_ticks(core)
    assert not Schedule.objects.filter(name="test.nightly").exists()

    migrate()

    one = Schedule.objects.get(name="test.nightly")
    assert (one.cron, one.tz, one.overlap, one.missed, one.grace_s) == (
        "0 3 * * *",
        "America/Sao_Paulo",
        "skip",
        "skip",
        30,
    )
    assert abs((one.last_tick_at - now(core)).total_seconds()) < 60

    Schedule.objects.filter(pk=one.pk).update(enabled=False)
    migrate()
    again = Schedule.objects.get(name="test.nightly")
    assert (again.enabled, again.last_tick_at) == (False, one.last_tick_at)


@pytest.mark.parametrize("who", ["migrate", "a keeper"])
def test_an_old_process_that_starts_during_a_roll_out_leaves_newer_schedules_alone(
    core: PrivateConnection, who: str
) -> None:
    roll_out(core)
    before = row()

    with old_release():
        migrate() if who == "migrate" else Keeper().turn()

    after = row()
    assert (after.enabled, after.origin) == (True, "code")
    assert (after.last_tick_at, after.anchor_at) == (before.last_tick_at, before.anchor_at)


def test_an_old_process_does_not_change_what_the_newer_release_declares_otherwise(
    core: PrivateConnection,
) -> None:
    roll_out(core)
    kind = registry.get("test.new")
    registry.remove("test.new")

    @job(name="test.new", schedule=every(hours=1))
    def other(ctx: Context) -> None: ...

    releases.record_heartbeat(core)  # the newest of the three
    registry.remove("test.new")
    registry.add(kind)
    migrate()

    assert row().every_s == 6 * 3600


def test_an_older_keeper_says_once_that_a_newer_release_runs(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "esteira.keeper")
    roll_out(core)
    monkeypatch.setattr("esteira.keeper.scheduler.DECLARE_S", 0.0)
    monkeypatch.setattr("esteira.keeper.scheduler.SWEEP_S", 0.0)
    keeper = Keeper()

    def said() -> int:
        return caplog.text.count("a newer release runs")

    with old_release():
        for _ in range(3):
            keeper.turn()
        assert said() == 1

        silent(core)
        keeper.turn()
        assert row().origin == "gone"
    keeper.turn()
    with old_release():
        keeper.turn()
        assert said() == 2, "it is another roll-out"


def test_a_keeper_does_not_wait_for_a_schedule_that_somebody_holds(core: PrivateConnection) -> None:
    roll_out(core)
    core.fetch("UPDATE esteira_schedule SET grace_s = 7 WHERE name = 'test.new'")
    with psycopg.connect(SERVERS.postgres.url) as somebody:
        somebody.execute("SELECT 1 FROM esteira_schedule WHERE name = 'test.new' FOR UPDATE")
        patient = PrivateConnection("test", timeout_s=30)
        watch = Stopwatch()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            keep_declared(patient)
        assert watch.seconds < 5
        patient.close()


def test_a_worker_s_announcement_shows_that_its_release_lives(core: PrivateConnection) -> None:
    roll_out(core)
    silent(core)
    identity.take_name(core, "w@host", queues=["default"], slots=1)

    with old_release():
        assert not write_declared(core)
        migrate()

    assert row().origin == "code"


def test_after_a_roll_back_the_old_keeper_writes_its_own_and_on_the_way_forward_the_new_one(
    core: PrivateConnection,
) -> None:
    """Without a migrate, and without a word about the operator's switch."""
    roll_out(core)
    silent(core)
    with old_release():
        Keeper().turn()
        assert (row().origin, row().enabled) == ("gone", True)
        write_ticks(core)

    Keeper().turn()

    assert (row().origin, row().enabled, row().error) == ("code", True, "")
    assert not Job.objects.exists()
    assert not keep_declared(core), "nothing is left to write"


def test_an_operator_s_switch_survives_a_roll_back_and_the_way_forward(core: PrivateConnection) -> None:
    roll_out(core)
    Schedule.objects.update(enabled=False)
    silent(core)
    with old_release():
        migrate()
        assert row().origin == "gone"

    migrate()

    assert (row().enabled, row().origin) == (False, "code")


def test_what_was_gone_for_long_comes_back_without_its_past_and_in_step(core: PrivateConnection) -> None:
    roll_out(core)
    silent(core)
    with old_release():
        migrate()
    core.fetch(
        "UPDATE esteira_schedule SET gone_at = gone_at - interval '3 days', last_tick_at = last_tick_at - interval '3 days'"
    )
    before = row()

    migrate()

    assert row().anchor_at == before.anchor_at
    assert now(core) - row().last_tick_at < timedelta(minutes=1)


def test_ticks_of_a_brief_absence_are_made_up(core: PrivateConnection) -> None:
    roll_out(core)
    before = row()
    silent(core)
    with old_release():
        migrate()

    migrate()

    assert row().last_tick_at == before.last_tick_at


def test_what_an_earlier_version_switched_off_as_gone_is_on_again_when_its_code_is_back(
    core: PrivateConnection,
) -> None:
    """It switched off itself what was gone, and wrote down no time."""
    roll_out(core)
    Schedule.objects.filter(name="test.new").update(origin="gone", enabled=False, gone_at=None)

    migrate()

    assert (row().enabled, row().origin) == (True, "code")


def test_a_moment_that_a_clock_ahead_wrote_keeps_no_release_alive(core: PrivateConnection) -> None:
    roll_out(core)
    core.fetch("UPDATE esteira_release SET last_seen = last_seen + interval '1 hour'")

    with old_release():
        migrate()
        assert row().origin == "gone"
        assert Release.objects.get(fingerprint=releases.fingerprint()).last_seen < now(core)


def test_an_operator_s_own_schedule_of_a_type_s_name_gets_another_name_and_both_go_on(
    core: PrivateConnection,
) -> None:
    fields: dict[str, Any] = {"type": "test.new", "every_s": 60, "origin": "database"}
    mine = Schedule.objects.create(name="test.new", **fields)
    Schedule.objects.create(name="test.new (own)", **fields)

    migrate()

    assert (row().origin, row().every_s) == ("code", 6 * 3600)
    mine.refresh_from_db()
    assert (mine.name, mine.origin, mine.every_s, mine.enabled) == ("test.new (own 2)", "database", 60, True)
    migrate()
    assert Schedule.objects.filter(type="test.new").count() == 3
