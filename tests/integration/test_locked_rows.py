"""A locked row delays its own attempt only: no lease and no end of another job waits for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from esteira import Context, TimeLimitExceeded, job
from esteira.db import PrivateConnection
from esteira.models import Job
from esteira.record import finish, telling
from esteira.runner import heartbeat
from esteira.runner.runner import Runner
from tests.support.jobs import look, outcome, running
from tests.support.run_hints import run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")

CAUSE = finish.Break(reason="connection lost", type="ConnectionLost", message="It was cut.")
LEASE_S = 1.0


class Holder:
    """Somebody's open transaction."""

    def __init__(self) -> None:
        self.connection = psycopg.connect(settings.DATABASE_URL)

    def lock(self, job_id: UUID, strength: str = "NO KEY UPDATE") -> None:
        self.connection.execute(f"SELECT 1 FROM esteira_job WHERE id = %s FOR {strength}", [job_id])  # type: ignore[arg-type]

    def let_go(self) -> None:
        self.connection.rollback()


@pytest.fixture
def holder() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.connection.close()


def lives_on(job_id: UUID) -> None:
    """Wait until a running job has outlived two of its leases, none of which may have ended."""

    def lease() -> tuple[Any, bool]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT lease_until, lease_until > clock_timestamp() FROM esteira_job WHERE id = %s", [job_id]
            )
            until_, valid = cursor.fetchone()
            return until_, bool(valid)

    first, _ = lease()

    def outlived() -> bool:
        last, valid = lease()
        assert valid, "a lease has ended"
        return bool(last > first + timedelta(seconds=2 * LEASE_S))

    until(outlived, "its lease is extended", timeout=15)


def when(condition: Callable[[], bool], what: str, then: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        try:
            until(condition, what, timeout=20)
        finally:
            then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("strength", ["NO KEY UPDATE", "UPDATE"])
def test_an_end_that_waits_for_a_lock_costs_no_neighbour_its_lease_or_its_end(
    runner: Runner, core: PrivateConnection, holder: Holder, strength: str
) -> None:
    @job(name="test.pair", lease=LEASE_S)
    def pair(ctx: Context, first: bool) -> None:
        ctx.log.info("a line")
        if first:
            holder.lock(ctx.job_id, strength)
        else:
            lives_on(ctx.job_id)

    one, two = pair.submit_many([{"first": True}, {"first": False}])
    seen: list[str] = []

    def let_go() -> None:
        seen.append(look(core, one).state)
        holder.let_go()

    thread = when(lambda: look(core, two).state == "succeeded", "its neighbour's end is written", let_go)
    rows = run(runner, one, two)
    thread.join()

    assert seen == ["running"]
    assert [(row.state, row.attempt, row.suspicion) for row in rows] == [("succeeded", 1, 0)] * 2
    assert [len(row.logs.all()) for row in rows] == [1, 1]


def test_a_job_that_cannot_be_handed_back_yet_costs_no_neighbour_its_lease(
    runner: Runner, core: PrivateConnection, holder: Holder
) -> None:
    @job(name="test.waits", lease=LEASE_S)
    def waits(ctx: Context) -> None:
        holder.lock(two)
        lives_on(ctx.job_id)
        seen.append(look(core, two).state)
        holder.let_go()

    seen: list[str] = []
    one, two = waits.submit_many([{}, {}])
    rows = run(runner, one, two)

    assert seen == ["running"]
    assert [(row.state, row.attempt, row.suspicion) for row in rows] == [
        ("succeeded", 1, 0),
        ("queued", 1, 0),
    ]


def test_what_is_to_be_handed_back_keeps_its_lease_until_it_is(
    runner: Runner, core: PrivateConnection
) -> None:
    (claimed,) = running(core)
    runner.held_jobs.begin([claimed])
    runner.held_jobs.hand_back_waiting()

    assert [one.job.id for one in runner.held_jobs.leased()] == [claimed.id]

    runner.completer.flush()
    assert not runner.held_jobs.leased()


def test_no_write_of_an_attempt_waits_for_a_lock_and_each_says_so(
    core: PrivateConnection, holder: Holder
) -> None:
    locked, free = running(core, 2)
    mine = [(locked.id, 1), (free.id, 1)]
    holder.lock(locked.id, "UPDATE")
    core.fetch("SET lock_timeout = '50ms'")

    telling.start(core, locked.id, 1, 0.0)
    assert not telling.progress(core, locked.id, 1, 1, 2, "half")
    assert telling.progress(core, free.id, 1, 1, 2, "half")
    assert telling.log_lines(core, [(*one, "a line") for one in mine]) == {locked.id}
    assert finish.extend(core, mine) == {locked.id: (False, False), free.id: (False, False)}
    assert not finish.kill(core, locked.id, 1)
    assert finish.break_off(core, locked.id, 1, CAUSE) == "running"
    assert finish.finish(core, [outcome(locked), outcome(free)]) == {
        locked.id: "running",
        free.id: "succeeded",
    }
    assert finish.hand_back(core, [(locked.id, 1)]) == 0
    assert finish.still_mine(core, mine) == {locked.id: (False, False)}

    holder.let_go()
    assert finish.finish(core, [outcome(locked)]) == {locked.id: "succeeded"}


def test_a_completion_waits_for_a_lock_because_it_comes_once(core: PrivateConnection, holder: Holder) -> None:
    (claimed,) = running(core)
    holder.lock(claimed.id)
    core.fetch("SET lock_timeout = '20s'")
    thread = when(lambda: waiting_for_a_lock(core.name), "it waits", holder.let_go)

    assert finish.complete(core, outcome(claimed))
    thread.join()


def waiting_for_a_lock(name: str) -> bool:
    with psycopg.connect(settings.DATABASE_URL) as other:
        rows = other.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
            [f"esteira {name}"],
        )
        return rows.fetchone() is not None


@pytest.mark.slow
def test_the_progress_of_a_locked_row_is_told_later(
    runner: Runner, core: PrivateConnection, holder: Holder
) -> None:
    @job(name="test.own", lease=LEASE_S)
    def own(ctx: Context) -> None:
        holder.lock(ctx.job_id)
        ctx.progress(1, 2, "half")
        until(lambda: runner.held_jobs.running and not runner.held_jobs.running.progress, "it is taken up")
        until(lambda: runner.held_jobs.running and runner.held_jobs.running.progress, "it waits")
        holder.let_go()
        until(lambda: look(core, ctx.job_id).progress_done == 1, "it is told")
        until(lambda: look(core, ctx.job_id).started_at, "so is the start")

    (row,) = run(runner, own.submit().id)

    assert row.state == "succeeded"


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("force", [True, False])
def test_what_ended_and_is_locked_is_written_before_its_process_is_ended(
    force: bool, holder: Holder, core: PrivateConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HARD_AFTER_S", 0.3)

    @job(name="test.batch", timeout=60 if force else 0.2, lease=1, retries=0)
    def batch(ctx: Context, quick: bool) -> None:
        if quick:
            until((tmp_path / "locked").exists, "its row is locked")
            return
        while True:
            try:
                until(lambda: False, "never", timeout=20)
            except TimeLimitExceeded:
                pass

    quick, deaf = batch.submit_many([{"quick": True}, {"quick": False}])
    if not force:
        core.fetch("UPDATE esteira_job SET timeout_s = 60 WHERE id = %s", [quick])
    connection.close()
    if (child := os.fork()) == 0:
        core.forget()
        runner = Runner("w3/boot-3-3")
        runner.start()
        monkeypatch.setattr(heartbeat, "WAITING_MAX_S", 60)
        runner.run_hint([str(quick), str(deaf)], "d3")
        os._exit(1)
    until(lambda: look(core, quick).state == "running", "the first job runs")
    holder.lock(quick)
    (tmp_path / "locked").touch()
    until(lambda: look(core, deaf).started_at, "the second job runs")
    if force:
        core.fetch(
            "UPDATE esteira_job SET cancel_requested_at = now(), cancel_force = true WHERE id = %s", [deaf]
        )
    long_over = "SELECT clock_timestamp() > started_at + interval '2 seconds' FROM esteira_job WHERE id = %s"
    until(lambda: core.fetch(long_over, [deaf])[0][0], "its process should be gone")
    assert os.waitpid(child, os.WNOHANG) == (0, 0)

    holder.let_go()
    _, status = os.waitpid(child, 0)

    assert os.WTERMSIG(status) == signal.SIGKILL
    rows = [Job.objects.get(pk=one) for one in (quick, deaf)]
    assert [row.state for row in rows] == ["succeeded", "cancelled" if force else "failed"]
