"""A started attempt that ends without an outcome goes back, is counted by suspicion, and is dead at the sixth time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection, transaction
from pydantic import AfterValidator

from esteira import Context, GiveUp, Retry, job
from esteira.db import ConnectionLost, PrivateConnection
from esteira.models import File, Job, JobEvent, Stat
from esteira.record import lease
from esteira.record.finish import complete
from esteira.record.lease import Break
from esteira.record.operate import cancel
from esteira.record.rescue import MAX_SUSPICION
from esteira.runner.held import Held
from esteira.runner.runner import Runner
from tests.support.jobs import TYPE, look, outcome, running
from tests.support.run_hints import effect, effects, events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")

CUT = "SELECT pg_terminate_backend(pg_backend_pid())"


def ask(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def cut() -> None:
    """Lose the job's connection, as when the server restarts or a query crashes it."""
    ask("SELECT 1")
    ask(CUT)


def handed_back(runner: Runner, job_id: UUID) -> Job:
    """Run a job once: it must be back in the queue without a failure, with a point, a rest, and an event."""
    (row,) = run(runner, job_id)

    assert (row.state, row.attempt, row.failures, row.suspicion, row.error) == ("queued", 1, 0, 1, None)
    assert row.hold_until is not None
    assert events(row) == ["rescued"]
    assert JobEvent.objects.get().detail == {"reason": "connection lost"}
    assert not runner.held_jobs.leased()
    return row


def test_a_connection_that_is_lost_in_the_function_is_not_its_failure(runner: Runner) -> None:
    @job(name="test.cut", retries=0)
    def once(ctx: Context) -> int:
        if ctx.attempt == 1:
            cut()
        return ctx.attempt

    answer = once.submit()
    handed_back(runner, answer.id)
    until(lambda: run(runner, answer.id)[0].state == "succeeded", "it has rested, and runs again")

    row = Job.objects.get()
    assert (row.attempt, row.failures, row.result) == (2, 0, 2)


def wrapped() -> None:
    try:
        cut()
    except OperationalError as error:
        raise RuntimeError("the import failed") from error


def in_the_course() -> None:
    try:
        cut()
    finally:
        ask("SELECT 1").nothing  # noqa: B018


def in_a_transaction() -> None:
    with transaction.atomic():
        cut()


def left_open() -> None:
    transaction.atomic().__enter__()
    cut()


def in_a_group() -> None:
    try:
        cut()
    except OperationalError as error:
        raise ExceptionGroup("all of them", [ValueError("another"), error]) from None


def found_later() -> None:
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [ask("SELECT pg_backend_pid()")])
    until(lambda: ask("SELECT 1") is None, "the connection is lost")


def closed_by_itself() -> None:
    try:
        cut()
    except OperationalError:
        connection.close()
        raise


def idle_for_too_long() -> None:
    ask("SELECT set_config('idle_in_transaction_session_timeout', '50', false)")
    with transaction.atomic():
        ask("SELECT 1")
        until(lambda: len(ask("SELECT 'x'")) > 1, "the server ends it", every=0.3)


WAYS = [wrapped, in_a_transaction, left_open, in_a_group, found_later, closed_by_itself, idle_for_too_long]


@pytest.mark.parametrize("way", WAYS)
def test_in_whatever_way_it_is_lost(runner: Runner, way: Any) -> None:
    @job(name="test.cut", retries=0)
    def lose(ctx: Context) -> None:
        way()

    handed_back(runner, lose.submit().id)


@pytest.mark.parametrize("way", WAYS)
def test_in_whatever_way_it_is_lost_inside_a_completion(runner: Runner, way: Any) -> None:
    if way in (in_a_transaction, left_open, idle_for_too_long):
        way = cut

    @job(name="test.cut", retries=0, atomic=True)
    def lose(ctx: Context) -> None:
        effect("never")
        way()

    handed_back(runner, lose.submit().id)

    assert effects() == []


def test_a_connection_that_is_lost_while_the_result_is_read(runner: Runner) -> None:
    @job(name="test.cut", retries=0)
    def lose(ctx: Context) -> Any:
        return (cut() for _ in range(3))

    handed_back(runner, lose.submit().id)


losing: list[bool] = []


def look_up(value: str) -> str:
    if losing:
        cut()
    return value


def test_a_connection_that_is_lost_while_parameters_are_checked(runner: Runner) -> None:
    @job(name="test.cut", retries=0)
    def lose(ctx: Context, v: Annotated[str, AfterValidator(look_up)]) -> None: ...

    answer = lose.submit(v="x")
    losing.append(True)
    try:
        handed_back(runner, answer.id)
    finally:
        losing.clear()


def test_a_completion_that_is_in_doubt_cannot_be_swallowed(runner: Runner) -> None:
    @job(name="test.swallows", retries=0)
    def swallows(ctx: Context) -> str:
        try:
            with ctx.completing():
                effect("never")
                cut()
        except BaseException:
            return "all is well"
        return "never"

    handed_back(runner, swallows.submit().id)

    assert effects() == []


def test_the_private_connection_that_a_jobs_file_uses_is_nobodys_fault_either(runner: Runner) -> None:
    @job(name="test.file", retries=0)
    def write(ctx: Context) -> None:
        ask("SELECT 1")
        with ctx.file("out.bin") as file, runner.core.lock:  # the heartbeat would meet the break first
            (pid,) = runner.core.fetch("SELECT pg_backend_pid()")[0]
            ask(f"SELECT pg_terminate_backend({pid})")
            until(lambda: file.write(b"x" * 300_000) is None, "the break is met")

    handed_back(runner, write.submit().id)

    assert File.objects.filter(attached_at__isnull=False).count() == 0


def times_out() -> None:
    ask("SELECT set_config('statement_timeout', '50', false)")
    ask("SELECT pg_sleep(20)")


def times_out_and_closes() -> None:
    try:
        times_out()
    except OperationalError:
        connection.close()
        raise


def waits_for_a_lock() -> None:
    with psycopg.connect(settings.DATABASE_URL) as other:
        other.execute("LOCK TABLE esteira_queue")
        ask("SELECT set_config('lock_timeout', '50', false)")
        effect("never")


def gives_up() -> None:
    try:
        cut()
    except OperationalError as error:
        raise GiveUp("the ledger is closed") from error


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        (lambda: ask("SELECT nothing"), "ProgrammingError"),
        (lambda: ask("SELECT 1 / 0"), "DataError"),
        (times_out, "OperationalError"),
        (times_out_and_closes, "OperationalError"),
        (waits_for_a_lock, "OperationalError"),
        (gives_up, "GiveUp"),
    ],
)
def test_an_error_of_a_query_is_the_jobs_own_failure(runner: Runner, way: Any, kind: str) -> None:
    @job(name="test.query", retries=0)
    def query(ctx: Context) -> None:
        way()

    (row,) = run(runner, query.submit().id)

    assert (row.state, row.failures, row.suspicion, row.error["type"]) == ("failed", 1, 0, kind)  # type: ignore[index]


def test_a_job_that_asks_for_a_pause_after_a_lost_connection_gets_it(runner: Runner) -> None:
    @job(name="test.asks")
    def asks(ctx: Context) -> None:
        try:
            cut()
        except OperationalError as error:
            raise Retry("the ledger is away", after=50) from error

    (row,) = run(runner, asks.submit().id)

    assert (row.state, row.failures, row.suspicion, events(row)) == ("queued", 1, 0, ["retry_scheduled"])


def end_of(runner: Runner, core: PrivateConnection, job_id: UUID) -> tuple[Job, list[float]]:
    """Run a job again and again without its rests; return its end, and how long each rest would have been."""
    rests = []
    for _ in range(2 * MAX_SUSPICION):
        run(runner, job_id)
        row = look(core, job_id)
        if row.state != "queued":
            break
        rests.append(row.hold_in)
        core.fetch("UPDATE esteira_job SET hold_until = NULL")
    return Job.objects.get(pk=job_id), rests


@pytest.mark.parametrize("atomic", [True, False])
def test_a_job_that_cuts_its_own_connection_each_time_ends_dead_and_says_why(
    runner: Runner, core: PrivateConnection, atomic: bool
) -> None:
    @job(name="test.cuts", atomic=atomic, retries=2)
    def cuts(ctx: Context) -> None:
        cut()

    row, rests = end_of(runner, core, cuts.submit().id)

    assert (row.state, row.attempt, row.failures, row.suspicion) == ("dead", 6, 0, 6)
    assert events(row) == ["rescued"] * 5 + ["dead"]
    assert (row.error["kind"], row.error["type"]) == ("lost", "ConnectionLost")  # type: ignore[index]
    assert "terminating connection" in row.error["message"]  # type: ignore[index]
    assert "6 points of suspicion" in row.error["message"]  # type: ignore[index]
    assert all(0.1 < rest <= 2**n for n, rest in enumerate(rests))
    runner.core.fetch("SELECT 1")


@contextmanager
def broken_core() -> Iterator[None]:
    """Break the core itself: its own log has a filter that raises, as an installation's logging may have."""

    def refuse(record: logging.LogRecord) -> bool:
        if "failed on try" in record.getMessage():
            raise OSError("no space for the log")
        return True

    logger = logging.getLogger("esteira.runner")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(level)


def test_an_error_of_the_core_counts_against_what_had_started_and_nothing_else(runner: Runner) -> None:
    @job(name="test.batch", retries=0)
    def batch(ctx: Context, n: int) -> int:
        if n == 1:
            raise ValueError
        return n

    ids = batch.submit_many({"n": n} for n in range(3))
    with broken_core(), pytest.raises(OSError, match="no space"):
        run(runner, *ids)

    done, started, waiting = [Job.objects.get(pk=one) for one in ids]
    assert (done.state, started.state, waiting.state) == ("succeeded", "queued", "queued")
    assert (started.suspicion, events(started)) == (1, ["rescued"])
    assert (waiting.suspicion, waiting.hold_until, events(waiting)) == (0, None, [])
    assert not runner.held_jobs.leased()


def test_a_job_around_which_the_core_fails_each_time_ends_dead(
    runner: Runner, core: PrivateConnection
) -> None:
    @job(name="test.raises")
    def raises(ctx: Context) -> None:
        raise ValueError

    answer = raises.submit()
    with broken_core():
        for _ in range(MAX_SUSPICION):
            with pytest.raises(OSError, match="no space"):
                run(runner, answer.id)
            core.fetch("UPDATE esteira_job SET hold_until = NULL")

    row = Job.objects.get()
    assert (row.state, row.attempt, row.error["type"]) == ("dead", 6, "CoreError")  # type: ignore[index]
    assert "no space for the log" in row.error["message"]  # type: ignore[index]


CAUSE = Break(reason="connection lost", type="ConnectionLost", message="It was cut.")


def test_a_completion_that_had_gone_through_is_left_alone_and_counted(
    runner: Runner, core: PrivateConnection
) -> None:
    (claimed,) = running(core)
    assert complete(core, outcome(claimed))
    runner.held_jobs.end(Held(claimed, 0.0), CAUSE)
    runner.completer.flush()
    runner.stats.flush(core)

    row = Job.objects.get()
    assert (row.state, row.suspicion, events(row)) == ("succeeded", 0, [])
    assert [(stat.state, stat.n) for stat in Stat.objects.filter(type=TYPE)] == [("succeeded", 1)]


def test_what_is_broken_off_is_counted_once_though_the_next_one_meets_a_lost_connection(
    runner: Runner, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, cut_off = running(core, 2)
    assert complete(core, outcome(done))
    break_off = lease.break_off

    def break_off_and_cut(db: PrivateConnection, job_id: UUID, attempt: int, cause: Break) -> str | None:
        if job_id == cut_off.id and attempt == 1 and not cuts:
            cuts.append(True)
            core.fetch("SELECT pg_terminate_backend(%s)", runner.core.fetch("SELECT pg_backend_pid()")[0])
        return break_off(db, job_id, attempt, cause)

    cuts: list[bool] = []
    monkeypatch.setattr(lease, "break_off", break_off_and_cut)
    with runner.core.lock:  # the heartbeat would write the second one
        for claimed in (done, cut_off):
            runner.held_jobs.end(Held(claimed, 0.0), CAUSE)
        with pytest.raises(ConnectionLost):
            runner.completer.flush()
        runner.completer.flush()
    runner.stats.flush(core)

    assert [(stat.state, stat.n) for stat in Stat.objects.filter(type=TYPE)] == [("succeeded", 1)]
    rows = [Job.objects.get(pk=one.id) for one in (done, cut_off)]
    assert [(row.state, row.suspicion) for row in rows] == [("succeeded", 0), ("queued", 1)]


def test_a_job_that_was_cancelled_meanwhile_is_cancelled_when_its_connection_is_lost(
    runner: Runner, core: PrivateConnection
) -> None:
    (claimed,) = running(core)
    cancel(core, claimed.id, by="ana", force=False)
    runner.held_jobs.end(Held(claimed, 0.0), CAUSE)
    runner.completer.flush()

    assert Job.objects.get().state == "cancelled"


def test_what_its_own_last_transaction_still_locks_waits_and_holds_up_nobody(
    runner: Runner, core: PrivateConnection
) -> None:
    """The server may notice late that a client is gone; until then nobody knows whether its commit went through."""
    holder = psycopg.connect(settings.DATABASE_URL)

    @job(name="test.locked", retries=0)
    def locked(ctx: Context) -> None:
        holder.execute("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [ctx.job_id])
        cut()

    @job(name="test.other")
    def other(ctx: Context) -> None: ...

    def let_go() -> None:
        until(lambda: look(core, second).state == "succeeded", "its neighbour's end is written")
        states.append(look(core, first).state)
        holder.close()

    states: list[str] = []
    first, second = locked.submit().id, other.submit().id
    release = threading.Thread(target=let_go)
    release.start()
    rows = run(runner, first, second)
    release.join()

    assert states == ["running"]
    assert [row.state for row in rows] == ["queued", "succeeded"]
    assert rows[0].suspicion == 1
