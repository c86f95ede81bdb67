"""What one job leaves in the database's session: nothing of it reaches the next job, and nothing is believed kept."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.db import DatabaseError, connection, connections, transaction

from esteira import Context, job
from esteira.db import PrivateConnection, orm, sessions
from esteira.models import Job
from esteira.runner.runner import Runner
from tests.support.run_hints import effect, effects, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


def sql(text: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall()) if cursor.description else []


def innocent_after(
    runner: Runner, mischief: Callable[[], object], look: Callable[[], Any]
) -> tuple[Job, Any]:
    """Run a job that does mischief, and one of the same hint that writes a row and looks around."""
    seen: list[Any] = []

    @job(name="test.mixed", retries=0)
    def mixed(ctx: Context, innocent: bool) -> None:
        if innocent:
            effect("of the innocent")
            seen.append(look())
        else:
            mischief()

    rows = run(runner, *mixed.submit_many([{"innocent": False}, {"innocent": True}]))

    assert (rows[1].state, rows[1].error, effects()) == ("succeeded", None, ["of the innocent"])
    return rows[0], seen[0]


def begin_and_fail() -> None:
    sql("BEGIN")
    with suppress(DatabaseError):
        sql("SELECT nonsense")


def begin_below_django() -> None:
    connection.ensure_connection()
    connection.connection.execute("BEGIN")
    connection.connection.execute("SELECT 1")


def autocommit_off() -> None:
    transaction.set_autocommit(False)
    effect("never committed")


def enter_and_stay() -> None:
    transaction.atomic().__enter__()
    effect("never committed")


@pytest.mark.parametrize(
    "mischief", [lambda: sql("BEGIN"), begin_and_fail, begin_below_django, autocommit_off, enter_and_stay]
)
def test_a_job_that_leaves_a_transaction_open_fails_and_the_next_one_keeps_its_row(
    runner: Runner, mischief: Callable[[], None]
) -> None:
    left, _ = innocent_after(runner, mischief, lambda: None)

    assert left.state == "failed"
    assert left.error["type"] == "LeftOpen"  # type: ignore[index]
    assert "'default'" in left.error["message"]  # type: ignore[index]


def test_what_a_job_committed_by_hand_counts(runner: Runner) -> None:
    @job(name="test.by_hand", retries=0)
    def by_hand(ctx: Context) -> None:
        transaction.set_autocommit(False)
        effect("committed by hand")
        transaction.commit()

    (row,) = run(runner, by_hand.submit().id)

    assert (row.state, effects()) == ("succeeded", ["committed by hand"])


def test_a_transaction_left_open_after_a_completion_is_undone_and_the_completion_stays(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    @job(name="test.goes_on", retries=0)
    def goes_on(ctx: Context) -> None:
        with ctx.completing() as done:
            effect("completed")
            done.result = 1
        sql("BEGIN")
        effect("too late")

    (row,) = run(runner, goes_on.submit().id)

    assert (row.state, row.result, effects()) == ("succeeded", 1, ["completed"])
    assert (
        "had already completed when this was found: The job returned with a transaction open" in caplog.text
    )


def raw_settings() -> None:
    connection.ensure_connection()
    connection.connection.row_factory = psycopg.rows.dict_row
    connection.connection.prepare_threshold = 0
    connection.connection.add_notice_handler(print)
    connection.connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE


def wrap_statements() -> None:
    connection.execute_wrappers.append(lambda *_: 1 / 0)


def log_queries() -> None:
    connection.force_debug_cursor = True


LEFT: dict[str, tuple[Callable[[], object], Callable[[], Any], Any]] = {
    "search_path": (lambda: sql("SET search_path = ''"), lambda: sql("SHOW search_path"), [('"$user", public',)]),
    "role": (lambda: sql("SET ROLE pg_monitor"), lambda: sql("SELECT current_user = session_user"), [(True,)]),
    "zone": (lambda: sql("SET timezone = 'Asia/Tokyo'"), lambda: sql("SHOW timezone"), [("UTC",)]),
    "read only": (
        lambda: sql("SET default_transaction_read_only = on"),
        lambda: sql("SHOW default_transaction_read_only"),
        [("off",)],
    ),
    "statement_timeout": (lambda: sql("SET statement_timeout = 1"), lambda: sql("SHOW statement_timeout"), [("0",)]),
    "settings of ours": (
        lambda: sql("SET jit = on; SET tcp_user_timeout = 1"),
        lambda: sql("SELECT current_setting('jit'), current_setting('tcp_user_timeout') <> '1ms'"),
        [("off", True)],
    ),
    "temporary table": (
        lambda: sql("CREATE TEMP TABLE esteira_queue (name text, paused_by text, reason text)"),
        lambda: sql("SELECT count(*) FROM pg_class WHERE relname = 'esteira_queue'"),
        [(1,)],
    ),
    "prepared statement": (
        lambda: sql("PREPARE mine AS SELECT 1"),
        lambda: sql("SELECT count(*) FROM pg_prepared_statements"),
        [(0,)],
    ),
    "cursor": (
        lambda: sql("DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 9)"),
        lambda: sql("SELECT count(*) FROM pg_cursors WHERE name = 'mine'"),
        [(0,)],
    ),
    "advisory lock": (
        lambda: sql("SELECT pg_advisory_lock(4711)"),
        lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"),
        [(0,)],
    ),
    "listening": (lambda: sql("LISTEN news"), lambda: sql("SELECT count(*) FROM pg_listening_channels()"), [(0,)]),
    "statement wrappers": (wrap_statements, lambda: connection.execute_wrappers, []),
    "debugging": (log_queries, lambda: (connection.force_debug_cursor, list(connection.queries_log)), (False, [])),
    "the driver's own": (
        raw_settings,
        lambda: (
            sql("SELECT 1"),
            connection.connection.prepare_threshold,
            connection.connection._notice_handlers,
            connection.connection.isolation_level,
        ),
        ([(1,)], None, [], None),
    ),
    "autocommit": (lambda: transaction.set_autocommit(False), transaction.get_autocommit, True),
    "a closed connection": (lambda: (connection.ensure_connection(), connection.connection.close()), lambda: sql("SELECT 1"), [(1,)]),
    "a killed session": (lambda: sql("SELECT 1"), lambda: sql("SELECT 1"), [(1,)]),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_nothing_that_a_job_leaves_in_its_session_reaches_the_next(runner: Runner, what: str) -> None:
    mischief, look, expected = LEFT[what]

    left, seen = innocent_after(runner, mischief, look)

    assert (left.state, seen) == ("succeeded", expected)


def test_a_session_that_ends_while_nobody_uses_it_is_replaced(runner: Runner) -> None:
    pids: list[int] = []

    @job(name="test.pid", retries=0)
    def pid(ctx: Context) -> None:
        if pids:
            with psycopg.connect(settings.DATABASE_URL, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [pids[-1]])
        pids.append(sql("SELECT pg_backend_pid()")[0][0])

    rows = run(runner, *pid.submit_many([{}, {}]))

    assert [row.state for row in rows] == ["succeeded"] * 2
    assert pids[0] != pids[1]


def test_jobs_share_one_connection_and_know_nothing_of_each_other(runner: Runner) -> None:
    seen: list[Any] = []

    @job(name="test.shares", retries=0)
    def shares(ctx: Context) -> None:
        pid = sql("SELECT pg_backend_pid()")[0][0]
        seen.append((pid, connection.connection, connections["default"]))

    run(runner, *shares.submit_many([{}, {}, {}]))

    assert len({pid for pid, _, _ in seen}) == 1
    assert len({id(raw) for _, raw, _ in seen}) == 3
    assert all(raw.closed for _, raw, _ in seen)


def test_a_job_that_touches_no_connection_costs_nothing(runner: Runner) -> None:
    seen: list[Any] = []

    @job(name="test.touches", retries=0)
    def touches(ctx: Context, database: bool) -> None:
        if database:
            sql("SELECT 1")
        seen.append((connections["default"], connections["default"].connection is None))

    run(runner, *touches.submit_many([{"database": True}, {"database": False}, {"database": False}]))

    assert seen[0][0] is not seen[1][0]
    assert seen[1][0] is seen[2][0]
    assert [untouched for _, untouched in seen] == [False, True, True]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_statement_that_a_time_limit_hit_does_not_break_the_next_job(runner: Runner, wrapped: bool) -> None:
    def mischief() -> str:
        try:
            sql("SELECT pg_sleep(20)")
        except Exception as error:
            if wrapped:
                raise RuntimeError("the import failed") from error
        return "tidied up"

    @job(name="test.limited", retries=0, timeout=0.3)
    def limited(ctx: Context) -> str:
        return mischief()

    @job(name="test.innocent", retries=0)
    def innocent(ctx: Context) -> int:
        return int(sql("SELECT 42")[0][0])

    started = time.monotonic()
    (first,) = run(runner, limited.submit().id)
    (second,) = run(runner, innocent.submit().id)

    assert first.state == ("failed" if wrapped else "succeeded")
    assert (second.state, second.result) == ("succeeded", 42)
    assert time.monotonic() - started < 10


def test_a_transaction_in_which_a_time_limit_was_swallowed_has_not_succeeded(runner: Runner) -> None:
    @job(name="test.swallows", retries=0, timeout=0.3)
    def swallows(ctx: Context) -> None:
        sql("BEGIN")
        effect("undone")
        with suppress(Exception):
            sql("SELECT pg_sleep(20)")

    (row,) = run(runner, swallows.submit().id)

    assert (row.state, row.error["type"], effects()) == ("failed", "LeftOpen", [])  # type: ignore[index]


# --- asyncio ----------------------------------------------------------------------------------------------------------


async def names() -> list[str]:
    return [row.type async for row in Job.objects.aiterator()]


def test_jobs_may_use_the_orm_with_asyncio(runner: Runner) -> None:
    left, seen = innocent_after(runner, lambda: asyncio.run(names()), lambda: asyncio.run(names()))

    assert (left.state, left.error) == ("succeeded", None)
    assert seen == ["test.mixed", "test.mixed"]
    assert not runner.between.spoiled


def test_a_transaction_left_open_in_the_thread_of_sync_to_async_fails_the_job_and_no_other(
    runner: Runner,
) -> None:
    async def begin() -> None:
        await sync_to_async(sql)("BEGIN")
        await sync_to_async(effect)("never committed")

    async def look() -> list[Any]:
        return await sync_to_async(sql)("SELECT pg_current_xact_id_if_assigned() IS NULL")

    left, seen = innocent_after(runner, lambda: asyncio.run(begin()), lambda: asyncio.run(look()))

    assert (left.state, left.error and left.error["type"]) == ("failed", "LeftOpen")
    assert seen == [(True,)]


def test_asgiref_keeps_the_thread_where_ours_is_put(runner: Runner) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(await sync_to_async(lambda: threading.current_thread().name)())

    asyncio.run(look())

    assert SyncToAsync.single_thread_executor is sessions._thread
    assert seen[0].startswith("esteira-async")


# --- other databases --------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[str]:
    """A second database of the project's, in SQLite."""
    there: Any = connections.settings
    engine = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "lite"), "OPTIONS": {}}
    there["lite"] = {**there["default"], **engine}
    yield "lite"
    connections["lite"].close()
    del connections["lite"]
    del there["lite"]


def in_lite(text: str) -> list[Any]:
    with connections["lite"].cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())


def test_a_database_of_another_kind_may_be_used_beside_ours(runner: Runner, lite: str) -> None:
    left, seen = innocent_after(
        runner, lambda: in_lite("CREATE TABLE t (n int)"), lambda: in_lite("SELECT count(*) FROM t")
    )

    assert (left.state, left.error, seen) == ("succeeded", None, [(0,)])
    assert not runner.between.spoiled


def test_a_transaction_left_open_in_a_database_of_another_kind_fails_the_job(
    runner: Runner, lite: str
) -> None:
    def mischief() -> None:
        in_lite("CREATE TABLE t (n int)")
        transaction.set_autocommit(False, using="lite")
        in_lite("INSERT INTO t VALUES (1)")

    left, seen = innocent_after(runner, mischief, lambda: in_lite("SELECT count(*) FROM t"))

    assert left.error["type"] == "LeftOpen" and "'lite'" in left.error["message"]  # type: ignore[index]
    assert seen == [(0,)]


def test_the_limits_of_a_process_that_answers_leave_other_kinds_alone(runner: Runner, lite: str) -> None:
    connections["lite"].ensure_connection()

    orm._limit_statements(connections["lite"], 1.0, 1.0)

    assert in_lite("SELECT 1") == [(1,)]


# --- closing ----------------------------------------------------------------------------------------------------------


def test_django_keeps_connections_where_they_are_looked_for(runner: Runner) -> None:
    there: Any = connections
    default = connections["default"]

    assert any(one is default for one in vars(there._connections._storage).values())


def test_closing_ends_a_session_that_waits_for_its_next_job(runner: Runner, core: PrivateConnection) -> None:
    @job(name="test.session", retries=0)
    def session(ctx: Context) -> int:
        return int(sql("SELECT pg_backend_pid()")[0][0])

    runner.run_hint([str(session.submit().id)], "00000000-0000-4000-8000-000000000001")
    ((pid,),) = core.fetch("SELECT (result #>> '{}')::int FROM esteira_job")
    assert lives(core, pid), "it waits for the next job"

    gc.disable()
    try:
        sessions.close()
        until(lambda: not lives(core, pid), "the session has ended")
    finally:
        gc.enable()


def lives(core: PrivateConnection, pid: int) -> bool:
    return bool(core.fetch("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]))
