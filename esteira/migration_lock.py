"""The gate of migrations: one process at a time changes the tables, and nobody starts before they are as it expects.

`migrate` may be typed in any number of places at once. Each takes the same session lock by asking again and again
outside a transaction: a waiter inside one would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for those. The
lock lives on the very connection that migrates. A migrator that is killed ends its connection, and PostgreSQL lets go
of the lock once the statement that it was at has ended; then the next one begins that migration again, and passes over
what stands.

Web, worker and beat wait here at their start. Migrations are additive within a release, so processes of the one before
go on meanwhile. New columns and constraints need a table for themselves (ACCESS EXCLUSIVE, or SHARE ROW EXCLUSIVE for
foreign keys), for the moment that a change of the catalogue takes. Until a migrator has such a lock, everybody queues
behind it: it waits for at most 2 s, then steps back for as long. What reads all rows, as building an index, marking
rows and validating constraints do, keeps nobody from reading or writing the table; see `esteira.online_migrations`.
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

#: "esteira" in ASCII. Advisory locks belong to one database, so two installations on one server do not meet.
LOCK_KEY = 0x65737465697261
LOCK_TIMEOUT_S = 2.0
#: So long the others have the table for themselves between two tries.
STEP_BACK_S = 2.0
#: How long a run of `migrate` waits for tables that somebody holds, all its tries together.
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
    """Run `migrate` while no other process migrates this database; `say` is told what is waited for."""
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
            say("The connection was opened anew during the migration: another process may have migrated too.")


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
                raise NotMigrated(
                    f"A table stayed in use for {PATIENCE_S:g} s ({str(error.__cause__).splitlines()[0]}). "
                    f"Find who holds it in pg_stat_activity, then run `{settings.MIGRATE_COMMAND}` again."
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

    Says in the log what it waits for. Calls `turn` every half second or so (a liveness file wants to be touched).
    Leaves no connection open: a worker's parent may call it before it forks.
    """
    _wait_while(_missing, timeout_s, turn)


def wait_for_database(timeout_s: float) -> None:
    """Return once the database answers; raises NotMigrated after `timeout_s`, and says in the log what it waits for."""
    _wait_while(_silent, timeout_s, lambda: None)


def _wait_while(
    missing: Callable[[PrivateConnection], str], timeout_s: float | None, turn: Callable[[], object]
) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    core, remind = PrivateConnection("gate", timeout_s=3), _Reminder(log.warning)
    try:
        while what := missing(core):
            if deadline is not None and time.monotonic() >= deadline:
                raise NotMigrated(what)
            remind(what)
            turn()
            time.sleep(TURN_S)
    finally:
        core.close()
    if remind.said:
        log.info("The database is ready.")


def _silent(db: Db) -> str:
    """Say that the database does not answer, or nothing."""
    try:
        db.fetch("SELECT 1")
    except ConnectionLost as error:
        return away(error)
    return ""


def _missing(db: Db) -> str:
    """Say what is missing, or nothing."""
    try:
        names = pending(db)
    except ConnectionLost as error:
        return away(error)
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Migrations are pending: {listed}. Run `{settings.MIGRATE_COMMAND}`." if names else ""


def pending(db: Db) -> list[str]:
    """Return the migrations of this release that the database has not seen; two short queries."""
    if not db.fetch("SELECT to_regclass('django_migrations') IS NOT NULL")[0][0]:
        return [name for name, _ in _wanted()]
    applied = {f"{app}.{name}" for app, name in db.fetch("SELECT app, name FROM django_migrations")}
    return [
        name for name, replaces in _wanted() if name not in applied and not (replaces and replaces <= applied)
    ]


@cache
def _wanted() -> list[tuple[str, frozenset[str]]]:
    """Return every migration of this release with those that it stands for (a squashed one)."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    return [
        (f"{app}.{name}", frozenset(f"{a}.{n}" for a, n in loader.disk_migrations[app, name].replaces))
        for app, name in sorted(loader.graph.nodes)
    ]


def away(error: BaseException, *, alias: str = "default") -> str:
    """Say that the database does not answer, where it was looked for, and what to do."""
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
    """Says a thing at once, when it changes, and every now and then while it lasts."""

    def __init__(self, say: Say) -> None:
        self.say, self.said, self._at = say, "", 0.0

    def __call__(self, sentence: str) -> None:
        if sentence != self.said or time.monotonic() - self._at >= REMIND_S:
            self.say(sentence)
            self.said, self._at = sentence, time.monotonic()
