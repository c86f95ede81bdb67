"""Schedules: one job or one recorded skip per tick, whoever writes it, however late, and around every policy."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.keeper.schedules import MOST_A_TURN, write_ticks
from esteira.models import Job, Schedule, ScheduleSkip
from tests.support.jobs import stored
from tests.support.waiting import Stopwatch, until

pytestmark = pytest.mark.usefixtures("database", "job_types")


@pytest.fixture(autouse=True)
def tick_type(job_types: None) -> None:
    @job(name="test.tick")
    def tick(ctx: Context, n: int = 1) -> None: ...


def now(core: PrivateConnection) -> datetime:
    moment: datetime = core.fetch("SELECT clock_timestamp()")[0][0]
    return moment


def schedule(core: PrivateConnection, ago_s: float, **fields: Any) -> Schedule:
    """Store a schedule of every second whose last tick was so long ago."""
    last = now(core) - timedelta(seconds=ago_s)
    given = {"name": "s", "type": "test.tick", "every_s": 1, "origin": "database", "missed": "all", **fields}
    return Schedule.objects.create(anchor_at=last, last_tick_at=last, **given)


def ticks_of(one: Schedule) -> list[datetime]:
    return list(Job.objects.filter(schedule=one).order_by("tick_at").values_list("tick_at", flat=True))  # type: ignore[arg-type]


def skips_of(one: Schedule) -> dict[str, int]:
    found: dict[str, int] = {}
    for reason in ScheduleSkip.objects.filter(schedule=one).values_list("reason", flat=True):
        found[reason] = found.get(reason, 0) + 1
    return found


def write_all(core: PrivateConnection) -> None:
    while write_ticks(core):
        pass


def write_until(core: PrivateConnection, last: datetime) -> None:
    """Write the ticks up to a moment of the past."""
    while Schedule.objects.filter(last_tick_at__lt=last).exists():
        write_ticks(core)


def test_every_tick_since_the_last_one_gets_its_job(core: PrivateConnection) -> None:
    one = schedule(core, 10.5)

    write_ticks(core)

    ticks = ticks_of(one)
    assert ticks == [one.anchor_at + timedelta(seconds=n) for n in range(1, len(ticks) + 1)]
    assert len(ticks) == 10
    one.refresh_from_db()
    assert one.last_tick_at == ticks[-1]
    row = Job.objects.filter(schedule=one).first()
    assert row is not None
    assert (row.submitted_by, row.params, row.in_turn) == ("schedule s", {"n": 1}, False)


def test_keepers_at_the_same_time_write_each_tick_once(core: PrivateConnection) -> None:
    one = schedule(core, 300.5, grace_s=3600)
    cores = [PrivateConnection(f"keeper {n}") for n in range(4)]
    errors: list[BaseException] = []

    def keep(mine: PrivateConnection) -> None:
        try:
            for _ in range(10):
                write_ticks(mine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=keep, args=(mine,)) for mine in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write_all(core)
    for mine in cores:
        mine.close()

    ticks = ticks_of(one)
    assert errors == []
    assert ticks == [one.anchor_at + timedelta(seconds=n) for n in range(1, len(ticks) + 1)]
    assert len(ticks) >= 300


def test_a_turn_writes_at_most_a_hundred_and_says_that_there_is_more(core: PrivateConnection) -> None:
    one = schedule(core, 250.5, grace_s=3600)

    assert write_ticks(core) is True
    assert len(ticks_of(one)) == MOST_A_TURN
    write_all(core)
    assert len(ticks_of(one)) >= 250


@pytest.mark.parametrize(("missed", "late_jobs"), [("skip", 0), ("once", 1), ("all", 240)])
def test_ticks_older_than_the_grace_follow_the_policy(
    core: PrivateConnection, missed: str, late_jobs: int
) -> None:
    one = schedule(core, 300.5, missed=missed, grace_s=60)
    late = now(core) - timedelta(seconds=60)

    write_all(core)

    ticks = ticks_of(one)
    assert abs(sum(tick < late for tick in ticks) - late_jobs) <= 1 + (missed == "all")
    assert abs(sum(tick >= late for tick in ticks) - 60) <= 2
    skipped = ScheduleSkip.objects.filter(schedule=one, reason="missed").values_list("tick_at", flat=True)
    nominal = [one.anchor_at + timedelta(seconds=n) for n in range(1, len(ticks) + len(skipped) + 1)]
    assert sorted([*ticks, *skipped]) == nominal
    if missed == "once" and late_jobs:
        assert max(tick for tick in ticks if tick < late) > late - timedelta(seconds=3)


def test_overlap_skip_makes_no_job_while_one_is_open(core: PrivateConnection) -> None:
    one = schedule(core, 5.5, overlap="skip")

    write_ticks(core)

    assert len(ticks_of(one)) == 1
    assert skips_of(one) == {"overlap": 4}


def test_overlap_queue_makes_jobs_that_run_one_at_a_time(core: PrivateConnection) -> None:
    one = schedule(core, 3.5, overlap="queue")

    write_ticks(core)

    assert Job.objects.filter(schedule=one, in_turn=True).count() == 3


def test_a_unique_key_that_is_held_is_a_recorded_skip(core: PrivateConnection) -> None:
    @job(name="test.unique", unique="only")
    def unique(ctx: Context) -> None: ...

    one = schedule(core, 3.5, type="test.unique")

    write_ticks(core)

    assert len(ticks_of(one)) == 1
    assert skips_of(one) == {"unique": 2}


def test_parameters_that_the_type_refuses_are_a_recorded_skip(core: PrivateConnection) -> None:
    one = schedule(core, 2.5, params={"n": "many"})

    write_ticks(core)

    assert ticks_of(one) == []
    assert skips_of(one) == {"invalid": 2}


def test_a_type_that_only_another_release_knows_is_left_to_its_keeper(core: PrivateConnection) -> None:
    one = schedule(core, 2.5, type="test.newer")

    assert write_ticks(core) is False

    one.refresh_from_db()
    assert one.last_tick_at == one.anchor_at
    assert skips_of(one) == {}


def test_a_schedule_that_cannot_be_read_harms_no_other(core: PrivateConnection) -> None:
    schedule(core, 2.5, name="bad", every_s=0, cron="0 0 31 2 *", tz="UTC")
    schedule(core, 2.5, name="worse", every_s=0, cron="* * * * *", tz="Nowhere/At_All")
    good = schedule(core, 2.5, name="good")

    write_ticks(core)

    assert len(ticks_of(good)) == 2


def test_a_switched_off_schedule_makes_nothing(core: PrivateConnection) -> None:
    one = schedule(core, 5.5, enabled=False)

    write_ticks(core)

    assert ticks_of(one) == []


def test_a_year_of_missed_seconds_is_taken_a_hundred_at_a_time(core: PrivateConnection) -> None:
    one = schedule(core, 366 * 86400, missed="all")
    watch = Stopwatch()

    assert write_ticks(core) is True

    assert watch.seconds < 10
    assert len(ticks_of(one)) == MOST_A_TURN


def test_an_interval_ticks_through_the_hour_that_autumn_has_twice(core: PrivateConnection) -> None:
    """The server's own zone has daylight saving; every connection of ours says UTC."""
    (name,) = core.fetch("SELECT current_database()")[0]
    core.fetch(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    core.close()
    try:
        clocks_go_back = datetime(2025, 11, 2, 6, tzinfo=UTC)
        first, last = clocks_go_back - timedelta(hours=2), clocks_go_back + timedelta(hours=2)
        one = Schedule.objects.create(
            name="s", type="test.tick", every_s=600, missed="all", anchor_at=first, last_tick_at=first
        )

        write_until(core, last)

        assert [tick for tick in ticks_of(one) if tick <= last] == [
            first + timedelta(seconds=600 * n) for n in range(1, 25)
        ]
    finally:
        core.fetch(f"ALTER DATABASE {name} RESET timezone")
        core.close()


def test_a_last_tick_in_the_future_is_set_back_and_what_has_a_job_gets_no_second_one(
    core: PrivateConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a clock that was an hour ahead for a moment, and wrote ticks in it."""
    one = schedule(core, 0.0)
    ahead = one.anchor_at + timedelta(hours=1)
    early = [one.anchor_at + timedelta(seconds=n) for n in (1, 2)]
    core.fetch("UPDATE esteira_schedule SET last_tick_at = %s", [ahead])
    stored(core, type="test.tick", schedule_id=one.pk, tick_at=early[0])
    ScheduleSkip.objects.create(schedule=one, tick_at=early[1], reason="missed")

    write_ticks(core)
    one.refresh_from_db()
    assert one.last_tick_at < ahead
    assert one.error == ""
    assert "in the future" in caplog.text

    core.fetch(
        "UPDATE esteira_schedule SET last_tick_at = anchor_at"
    )  # two seconds that need not be waited for
    until(lambda: (write_ticks(core), len(ticks_of(one)) >= 3)[1], "it ticks again")
    recorded = [*ticks_of(one), *ScheduleSkip.objects.values_list("tick_at", flat=True)]
    assert len(set(recorded)) == len(recorded)
    assert sorted(recorded)[:2] == early


def test_a_schedule_that_was_stored_while_the_clock_was_ahead_ticks_too(core: PrivateConnection) -> None:
    one = schedule(core, -3600)

    write_ticks(core)

    one.refresh_from_db()
    assert one.anchor_at <= now(core)
    assert one.last_tick_at <= now(core)


def test_refused_parameters_are_said_with_the_schedule(core: PrivateConnection) -> None:
    one = schedule(core, 2.5, params={"n": "many"})

    write_ticks(core)
    one.refresh_from_db()
    assert one.error.startswith("Its parameters are refused.")
    assert one.last_tick_at > one.anchor_at

    Schedule.objects.filter(pk=one.pk).update(params={}, last_tick_at=one.anchor_at)
    until(lambda: (write_ticks(core), Job.objects.exists())[1], "a job with the mended parameters")
    one.refresh_from_db()
    assert one.error == ""


def test_a_schedule_whose_code_is_gone_makes_nothing(core: PrivateConnection) -> None:
    one = schedule(core, 5.5, origin="gone")

    write_ticks(core)

    assert ticks_of(one) == []
