"""Migrating beside a running release: its statements never wait, and a migrator that is killed anywhere is no harm.

`tests/support/next_release` has the migration, which this release has none of: it uses every operation that
`esteira.online_migrations` offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings

from esteira import migration_lock, online_migrations
from esteira.ids import uuid7
from esteira.online_migrations import in_batches
from tests.support.servers import SuiteServers
from tests.support.waiting import until

BEFORE = "0002_sql"
NEXT_RELEASE = "tests.support.next_release.migrations"
JOB = """INSERT INTO esteira_job
  (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, attempt, failures, started_at)
VALUES (%s, 't', %s, 'default', 6, 4, 2, 10, 60, %s, %s, %s)"""
FILE = """INSERT INTO esteira_file (id, name, content_type, size, sha256) VALUES (%s, 'f', 'text/plain', 1, 'a')"""
LOG = "INSERT INTO esteira_joblog (job_id, attempt, text) VALUES (%s, 1, 'said')"
CLAIM = """UPDATE esteira_job SET state = 'running', attempt = attempt + 1, worker = 'w', claimed_at = clock_timestamp(),
  lease_until = clock_timestamp() + interval '10 s' WHERE id = %s"""
FINISH = """UPDATE esteira_job SET state = 'succeeded', worker = NULL, lease_until = NULL,
  finished_at = clock_timestamp() WHERE id = %s"""
SCHEMA = """
SELECT 'column', c.relname::text, a.attname::text, concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod),
  a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
UNION ALL SELECT 'index', i.indexrelid::regclass::text, concat(i.indisvalid, i.indisready),
  pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
UNION ALL SELECT 'constraint', concat(conrelid::regclass, '.', conname), concat(convalidated),
  pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"""
#: What is built, in this order.
BUILT = ("job_front", "job_marked", "file_upload")
CHANGES = ("ALTER", "CREATE", "DROP", "UPDATE", "INSERT", "DELETE")
#: What conflicts with nothing that a job's statements do.
HARMLESS = {"AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"}


@pytest.fixture(scope="module", autouse=True)
def next_release() -> Iterator[None]:
    """Let `migrate` know one migration more in this process."""
    with override_settings(MIGRATION_MODULES={"esteira": NEXT_RELEASE}):
        yield


@pytest.fixture(scope="module")
def older(servers: SuiteServers, django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """The name of a database as the release before leaves it, to be copied."""
    with new_database(servers) as name:
        with django_db_blocker.unblock():
            migrate(name, "esteira", BEFORE)
        yield name


@pytest.fixture(scope="module")
def newest(servers: SuiteServers, django_db_setup: None, django_db_blocker: Any) -> set[tuple[Any, ...]]:
    """The tables as an empty database gets them."""
    with new_database(servers) as name:
        with django_db_blocker.unblock():
            migrate(name)
        with psycopg.connect(address(servers, name)) as db:
            return schema(db)


@pytest.fixture
def name(servers: SuiteServers, older: str, django_db_blocker: Any) -> Iterator[str]:
    """The name of a copy, which this process may migrate."""
    with new_database(servers, f"TEMPLATE {older}") as name, django_db_blocker.unblock():
        yield name


@pytest.fixture
def db(servers: SuiteServers, name: str) -> Iterator[psycopg.Connection]:
    """A connection to it; none of its statements may take longer than a second."""
    with psycopg.connect(address(servers, name), autocommit=True) as db:
        db.execute("SET statement_timeout = '1s'")
        yield db


@contextmanager
def new_database(servers: SuiteServers, how: str = "") -> Iterator[str]:
    name = f"online_{uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {how}")
        try:
            yield name
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def address(servers: SuiteServers, name: str) -> str:
    return servers.postgres.url.rsplit("/", 1)[0] + f"/{name}"


@contextmanager
def alias_of(name: str) -> Iterator[Any]:
    """Know a database to Django, in this thread."""
    connections.databases[name] = {**connections.databases["default"], "NAME": name}
    try:
        yield connections[name]
    finally:
        connections[name].close()
        del connections[name]
        del connections.databases[name]


def migrate(name: str, *arguments: str) -> None:
    with alias_of(name):
        call_command("migrate", *(arguments or ("esteira",)), database=name, verbosity=0)


def schema(db: psycopg.Connection) -> set[tuple[Any, ...]]:
    return set(db.execute(SCHEMA).fetchall())


def works(db: psycopg.Connection) -> None:
    """Do with a new job and a new upload what the release before does with them."""
    job = uuid7()
    db.execute(JOB, [job, "{}", 0, 0, None])
    db.execute(CLAIM, [job])
    db.execute(FINISH, [job])
    db.execute(FILE, [uuid7()])


class Killed(Exception):
    """The backend of the migrator was ended by this test."""


def migrate_and_be_killed(servers: SuiteServers, name: str, *, after: Callable[[str], bool]) -> None:
    """Migrate, and lose the connection right after the first statement that is meant."""

    def run(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if after(str(sql)):
            with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
                terminate(admin, context["connection"].connection.info.backend_pid)
            raise Killed(sql)
        return result

    with alias_of(name) as connection, connection.execute_wrapper(run):
        call_command("migrate", "esteira", database=name, verbosity=0)


def terminate(db: psycopg.Connection, pid: int) -> None:
    assert db.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone() == (True,)


@pytest.mark.slow
def test_builds_of_indexes_are_in_nobodys_way_and_may_be_killed(
    servers: SuiteServers, name: str, db: psycopg.Connection, newest: set[tuple[Any, ...]]
) -> None:
    """An old snapshot holds each build twice: the first is killed there, the second goes on once another is taken."""
    builds: list[str] = []
    snapshot = old_snapshot(servers, name)
    with ThreadPoolExecutor(1) as pool:
        migration = pool.submit(migrate, name)
        try:
            while held := until(partial(waits_or_ends, db, migration), "a build waits, or all is done")[0]:
                pid, index = held
                works(db)
                assert locks_in_the_way(db, pid) == set()
                builds.append(index)
                if builds.count(index) == 1:
                    terminate(db, pid)
                    with pytest.raises(CommandError, match="does not answer"):
                        migration.result(30)
                    assert invalid_indexes(db) == {index}
                    migration = pool.submit(migrate, name)
                else:
                    snapshot, before = old_snapshot(servers, name), snapshot
                    before.close()
                    until(partial(is_over, db, held), "the build has ended")
        finally:
            snapshot.close()
        migration.result(30)

    assert builds == [f"{index}_next" for index in BUILT for _ in range(2)]
    assert schema(db) == newest


@pytest.mark.parametrize(
    ("step_before", "held"),
    [('ADD COLUMN "marked"', "esteira_job"), ('VALIDATE CONSTRAINT "file_note_file"', "esteira_file")],
)
def test_marking_rows_is_in_nobodys_way(
    servers: SuiteServers, name: str, db: psycopg.Connection, step_before: str, held: str
) -> None:
    """Somebody is at the row of a job that was interrupted, or at that of a file which it names."""
    file, job = uuid7(), uuid7()
    db.execute(FILE, [file])
    db.execute(JOB, [job, f'{{"file": "{file}"}}', 1, 0, "2026-01-01Z"])
    with pytest.raises(Killed):
        migrate_and_be_killed(servers, name, after=lambda sql: step_before in sql)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(address(servers, name)) as holder:
        holder.execute(f"SELECT FROM {held} WHERE id = ANY(%s) FOR UPDATE", [[file, job]])
        migration = pool.submit(migrate, name)
        pid = until(lambda: waits_for_a_row(db), "the migrator waits for the row")
        works(db)
        assert locks_in_the_way(db, pid) == set()
        holder.rollback()
        migration.result(60)

    assert db.execute("SELECT marked FROM esteira_job WHERE id = %s", [job]).fetchone() == (True,)
    assert db.execute("SELECT job_id, file_id FROM esteira_filenote").fetchall() == [(job, file)]


@pytest.mark.slow
def test_a_migrator_may_be_killed_after_each_of_its_steps(
    servers: SuiteServers, name: str, db: psycopg.Connection, newest: set[tuple[Any, ...]]
) -> None:
    """What it had begun is gone, or is passed over; the release before works on after each."""
    file, job = uuid7(), uuid7()
    db.execute(FILE, [file])
    db.execute(JOB, [job, f'{{"file": "{file}"}}', 1, 0, "2026-01-01Z"])
    steps: list[str] = []

    def is_new(sql: str) -> bool:
        new = sql.split(maxsplit=1)[0] in CHANGES and sql not in steps and "esteira_blank" not in sql
        if new:
            steps.append(sql)
        return new

    for _ in range(200):
        try:
            migrate_and_be_killed(servers, name, after=is_new)
            break
        except Killed:
            works(db)

    assert len(steps) > 15
    assert schema(db) == newest
    assert db.execute("SELECT id FROM esteira_job WHERE marked").fetchall() == [(job,)]
    assert db.execute("SELECT job_id, file_id FROM esteira_filenote").fetchall() == [(job, file)]


def test_migrating_back_and_forth_ends_with_the_same_tables(
    name: str, db: psycopg.Connection, newest: set[tuple[Any, ...]]
) -> None:
    before = {row for row in schema(db) if row[0] == "index"}

    migrate(name)
    migrate(name, "esteira", BEFORE)

    assert {row for row in schema(db) if row[0] == "index"} == before
    migrate(name)
    assert without_places(schema(db)) == without_places(newest)


def test_the_way_back_mends_what_names_a_deleted_row(name: str, db: psycopg.Connection) -> None:
    migrate(name)
    kept, gone = uuid7(), uuid7()
    for job in (kept, gone):
        db.execute(JOB, [job, "{}", 0, 0, None])
        db.execute(LOG, [job])
    db.execute("DELETE FROM esteira_job WHERE id = %s", [gone])

    migrate(name, "esteira", BEFORE)

    assert db.execute("SELECT job_id FROM esteira_joblog").fetchall() == [(kept,)]
    validated = db.execute(
        """SELECT count(*) FROM pg_constraint WHERE conrelid = 'esteira_joblog'::regclass
           AND confrelid = 'esteira_job'::regclass AND convalidated AND condeferred"""
    )
    assert validated.fetchone() == (1,)
    migrate(name)


def test_every_row_is_in_one_batch(name: str, db: psycopg.Connection) -> None:
    migrate(name)
    ids = [UUID(int=0), *(uuid7() for _ in range(4)), UUID(int=2**128 - 1)]
    for job in ids:
        db.execute(JOB, [job, "{}", 0, 0, None])

    with alias_of(name) as connection:
        in_batches(
            connection,
            "esteira_job",
            """UPDATE esteira_job SET priority = priority + 3
               WHERE id >= %(start)s AND (%(end)s::uuid IS NULL OR id < %(end)s::uuid)""",
            rows=2,
        )

    assert db.execute("SELECT priority FROM esteira_job").fetchall() == [(9,)] * len(ids)


def test_rows_and_tables_that_stay_in_use_end_the_migration_with_a_sentence(
    servers: SuiteServers, name: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_lock, "PATIENCE_S", 1.0)
    monkeypatch.setattr(online_migrations, "PATIENCE_S", 1.0)
    job = uuid7()
    db.execute(JOB, [job, "{}", 1, 0, "2026-01-01Z"])
    with psycopg.connect(address(servers, name)) as holder:
        holder.execute("LOCK TABLE esteira_job IN ACCESS SHARE MODE")
        with pytest.raises(CommandError, match="A table stayed in use for 1 s"):
            migrate(name)
    with pytest.raises(Killed):
        migrate_and_be_killed(servers, name, after=lambda sql: 'ADD COLUMN "marked"' in sql)
    with psycopg.connect(address(servers, name)) as holder:
        holder.execute("SELECT FROM esteira_job WHERE id = %s FOR UPDATE", [job])
        with pytest.raises(CommandError, match="Rows of esteira_job stayed in use for 1 s"):
            migrate(name)

    migrate(name)


def old_snapshot(servers: SuiteServers, name: str) -> psycopg.Connection:
    connection = psycopg.connect(address(servers, name))
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute("SELECT 1")
    return connection


def build_that_waits(db: psycopg.Connection) -> tuple[int, str] | None:
    """Return the backend that waits for a snapshot, and the index that it builds."""
    found: tuple[int, str] | None = db.execute(
        """SELECT p.pid, p.index_relid::regclass::text FROM pg_stat_progress_create_index p JOIN pg_locks l USING (pid)
           WHERE p.datname = current_database() AND p.phase = 'waiting for old snapshots'
             AND l.locktype = 'virtualxid' AND NOT l.granted"""
    ).fetchone()
    return found


def waits_or_ends(db: psycopg.Connection, migration: Future[None]) -> list[tuple[int, str] | None]:
    """Return the build that waits, or None for the end of the migration; nothing while neither is so."""
    if waits := build_that_waits(db):
        return [waits]
    return [None] if migration.done() else []


def is_over(db: psycopg.Connection, build: tuple[int, str]) -> bool:
    return build_that_waits(db) != build


def waits_for_a_row(db: psycopg.Connection) -> int:
    found = db.execute(
        """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
           AND wait_event = 'transactionid' AND query ~ 'UPDATE esteira_job|INTO esteira_filenote'"""
    ).fetchone()
    return int(found[0]) if found else 0


def locks_in_the_way(db: psycopg.Connection, pid: int) -> set[tuple[str, str]]:
    """Return the locks on our tables that a backend has, or waits for, and that a job's statements could meet."""
    found = db.execute(
        """SELECT c.relname::text, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation AND c.relkind = 'r'
           WHERE l.pid = %s AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND c.relname LIKE 'esteira%%' AND l.mode <> ALL(%s)""",
        [pid, list(HARMLESS)],
    )
    return set(found.fetchall())


def invalid_indexes(db: psycopg.Connection) -> set[str]:
    found = db.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    return {row[0] for row in found.fetchall()}


def without_places(rows: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Leave out where a column stands in its row."""
    return {(*row[:3], row[3].split(" ", 1)[1]) if row[0] == "column" else row for row in rows}
