"""The lock of migrations.

One process at a time changes the tables, and no process starts before its migrations are done.

`migrate` may be run in any number of places at once. Each run takes the same session lock by trying again and again
outside a transaction: a waiting transaction would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for those. The
lock belongs to the same connection that migrates. If a migrating process is killed, its connection ends, and PostgreSQL
releases the lock after the current statement. The next run then repeats that migration and skips the steps that are
already done.

Web, worker and beat wait here at their start. Migrations are additive within a release, so processes of the previous
release go on meanwhile. New columns and constraints need an exclusive lock on a table (ACCESS EXCLUSIVE, or SHARE ROW
EXCLUSIVE for foreign keys), for the short time of a catalogue change. Until the migrating process gets such a lock, all
other statements queue behind it. So it waits for at most 2 s, and then pauses for as long. Steps that read all rows,
such as building an index, marking rows and validating constraints, block no reader and no writer of the table; see
`esteira.online_migrations`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from django.conf import settings
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from psycopg.errors import DeadlockDetected, LockNotAvailable

from esteira.db import ConnectionLost, Db, PrivateConnection
from esteira.errors import EsteiraError

#: "esteira" in ASCII. Advisory locks belong to one database, so two installations on one server do not conflict.
LOCK_KEY = 0x65737465697261
LOCK_TIMEOUT_S = 2.0
#: Between two tries, other processes can use the table for this long.
STEP_BACK_S = 2.0
#: How long a run of `migrate` waits for tables that other transactions lock, in all its tries together.
PATIENCE_S = 300.0
TURN_S = 0.5
REMIND_S = 15.0

log = logging.getLogger(__name__)
Say = Callable[[str], object]


class NotMigrated(EsteiraError):
    """The database did not answer, a table stayed in use, or migrations stayed pending, for too long."""

    code = "not-migrated"
    status = 503


def migrate_alone(migrate: Callable[[], object], *, alias: str, say: Say) -> None:
    """Run `migrate` while no other process migrates this database; `say` gets each reason for waiting."""
    connection = connections[alias]
    with _alone(connection, say), _short_lock_waits(connection):
        _patiently(migrate, say)


@contextmanager
def _alone(connection: BaseDatabaseWrapper, say: Say) -> Iterator[None]:
    remind = _Reminder(say)
    while not _ask(connection, "SELECT pg_try_advisory_lock(%s)", LOCK_KEY):
        remind(f"Waiting: {_holder(connection)} migrates this database now.")
        time.sleep(TURN_S)
    try:
        yield
    finally:
        if connection.is_usable() and not _ask(connection, "SELECT pg_advisory_unlock(%s)", LOCK_KEY):
            say("The connection was reopened during the migration: another process may have migrated too.")


def _holder(connection: BaseDatabaseWrapper) -> str:
    pid = _ask(
        connection,
        """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (classid::bigint << 32) + objid::bigint = %s""",
        LOCK_KEY,
    )
    return f"another process (PostgreSQL backend {pid})" if pid else "another process"


@contextmanager
def _short_lock_waits(connection: BaseDatabaseWrapper) -> Iterator[None]:
    _ask(connection, "SELECT set_config('lock_timeout', %s, false)", f"{LOCK_TIMEOUT_S:g}s")
    try:
        yield
    finally:
        if connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")


def _patiently(migrate: Callable[[], object], say: Say) -> None:
    waited = 0.0
    while True:
        try:
            migrate()
            return
        except OperationalError as error:
            if not isinstance(error.__cause__, (LockNotAvailable, DeadlockDetected)):
                raise
            waited += LOCK_TIMEOUT_S + STEP_BACK_S
            if waited > PATIENCE_S:
                reason = str(error.__cause__).splitlines()[0]
                raise NotMigrated(
                    "table-in-use", seconds=PATIENCE_S, reason=reason, command=settings.MIGRATE_COMMAND
                ) from error
            say(f"\nA table is in use for more than {LOCK_TIMEOUT_S:g} s; stepping back, then trying again.")
            time.sleep(STEP_BACK_S)


def _ask(connection: BaseDatabaseWrapper, sql: str, value: int | str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql, [value])
        row = cursor.fetchone()
    return row[0] if row else None


def wait_until_migrated(timeout_s: float | None = None, *, turn: Callable[[], object] = lambda: None) -> None:
    """Return once the database answers and no migration is pending; raises NotMigrated after `timeout_s`.

    Logs the reason for waiting. Calls `turn` about every half second (for a heartbeat file). Leaves no connection open:
    a worker's parent may call it before it forks.
    """
    _wait_while(_missing, timeout_s, turn)


def wait_for_database(timeout_s: float) -> None:
    """Return once the database answers; raises NotMigrated after `timeout_s`, and logs the reason for waiting."""
    _wait_while(_silent, timeout_s, lambda: None)


def _wait_while(
    missing: Callable[[PrivateConnection], str], timeout_s: float | None, turn: Callable[[], object]
) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    core, remind = PrivateConnection("gate", timeout_s=3), _Reminder(log.warning)
    try:
        while what := missing(core):
            if deadline is not None and time.monotonic() >= deadline:
                raise NotMigrated(reason=what)
            remind(what)
            turn()
            time.sleep(TURN_S)
    finally:
        core.close()
    if remind.said:
        log.info("The database is ready.")


def _silent(db: Db) -> str:
    """Return a text if the database does not answer, otherwise an empty one."""
    try:
        db.fetch("SELECT 1")
    except ConnectionLost as error:
        return away(error)
    return ""


def _missing(db: Db) -> str:
    """Return a text about pending migrations or a missing database, otherwise an empty one."""
    try:
        names = pending(db)
    except ConnectionLost as error:
        return away(error)
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Migrations are pending: {listed}. Run `{settings.MIGRATE_COMMAND}`." if names else ""


def pending(db: Db) -> list[str]:
    """Return the migrations of this release that the database does not have; two short queries."""
    if not db.fetch("SELECT to_regclass('django_migrations') IS NOT NULL")[0][0]:
        return [name for name, _ in _wanted()]
    applied = {f"{app}.{name}" for app, name in db.fetch("SELECT app, name FROM django_migrations")}
    return [
        name for name, replaces in _wanted() if name not in applied and not (replaces and replaces <= applied)
    ]


@cache
def _wanted() -> list[tuple[str, frozenset[str]]]:
    """Return every migration of this release with those that it replaces (a squashed one)."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    return [
        (f"{app}.{name}", frozenset(f"{a}.{n}" for a, n in loader.disk_migrations[app, name].replaces))
        for app, name in sorted(loader.graph.nodes)
    ]


def away(error: BaseException, *, alias: str = "default") -> str:
    """Describe that the database does not answer, its address, and what to do."""
    at = settings.DATABASES[alias]
    where = f"{at.get('HOST') or 'this machine'}:{at.get('PORT') or 5432}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    what_to_do = (
        "Start `make run`, or check DATABASE_URL."
        if settings.MANAGE_COMMAND.endswith("manage.py")
        else "Check that it runs, and that DATABASE_URL names it."
    )
    return f"The database at {where} does not answer. {what_to_do} ({reason})"


class _Reminder:
    """Reports a text at once, again when it changes, and from time to time while it stays the same."""

    def __init__(self, say: Say) -> None:
        self.say, self.said, self._at = say, "", 0.0

    def __call__(self, sentence: str) -> None:
        if sentence != self.said or time.monotonic() - self._at >= REMIND_S:
            self.say(sentence)
            self.said, self._at = sentence, time.monotonic()
