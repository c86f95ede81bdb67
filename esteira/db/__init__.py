"""The core's connections to PostgreSQL: plain SQL, either on the caller's Django connection or on a private one.

`DjangoConnection` runs inside the transaction that the caller has open, if any (so a submit belongs to the caller's
`atomic()`). `PrivateConnection` owns one private psycopg connection: leases, flushes and the keeper must be independent
of a job's own transaction. A broken private connection is closed, and the next call opens it again. The call during
which it broke raises `ConnectionLost`, and only the caller knows whether repeating is safe. A private connection
notices a dead server within one lease; Django's own follow the settings in `esteira.db.orm`.

Only three classes of SQLSTATE mean that the written value is at fault: 22 (data), 23 (integrity) and 54 (limits). Every
other error means that the server cannot do its work now: it is read-only, shutting down, or its tables were changed
under a prepared statement. All of those are `ConnectionLost`, and a new private connection is opened.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import psycopg
from django.conf import settings
from django.db import InterfaceError as DjangoInterfaceError
from django.db import InternalError as DjangoInternalError
from django.db import NotSupportedError as DjangoNotSupportedError
from django.db import OperationalError as DjangoOperationalError
from django.db import connections, transaction

from esteira.db.readback import read_any_moment

Row = tuple[Any, ...]
Params = Sequence[Any] | Mapping[str, Any]

#: The errors of an unavailable server, on either kind of connection; the written value is not at fault.
ConnectionLost = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    psycopg.NotSupportedError,
    DjangoOperationalError,
    DjangoInterfaceError,
    DjangoInternalError,
    DjangoNotSupportedError,
)
#: Classes of SQLSTATE that blame the value: data exception, integrity violation, program limit exceeded.
VALUE_CLASSES = ("22", "23", "54")
#: Another transaction holds a lock: the server works, and so does the connection.
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
DEADLOCK_TRIES = 5
#: A worker's parent forks as long as it runs, so it keeps no connection: it opens one for at most a second.
PARENT_TIMEOUT_S = 1.0
#: The server's own limits come first; this much later a client stops waiting for a server that does not respond.
SERVER_FIRST_S = 1.0
#: A connection that answered this recently is checked by its socket alone; TCP notices a lost peer about as fast.
LATELY_S = 5.0
#: A statement is prepared on Django's connection after this many runs; Django itself never prepares one.
PREPARE_AFTER = 5


class Unavailable(psycopg.OperationalError):
    """The server refused a statement although the value is not at fault; the cause is the driver's error."""


class LimitExceeded(psycopg.DataError):
    """A value is larger than PostgreSQL's own limits (SQLSTATE class 54); the cause is the driver's error."""


class Db(Protocol):
    """The interface that `record` needs."""

    def fetch(self, sql: str, params: Params = ()) -> list[Row]: ...
    def transaction(self) -> AbstractContextManager[None]: ...


class DjangoConnection:
    """The caller's Django connection and its transaction."""

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement; frequent ones are prepared, unless Django is configured for a shared pooler."""
        django = _live()
        django.ensure_connection()
        django.validate_no_broken_transaction()
        raw = django.connection
        if raw.prepare_threshold is None and not django.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
            raw.prepare_threshold = PREPARE_AFTER
        with django.wrap_database_errors, psycopg.Cursor(raw) as cursor:
            try:
                cursor.execute(sql, params)
            except psycopg.Error as error:
                if _class_of(error) == "54":
                    raise LimitExceeded(str(error)) from error
                raise
            rows = cursor.fetchall() if cursor.description else []
        raw.answered_at = time.monotonic()
        return rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        _live()
        with transaction.atomic():
            yield


def _live() -> Any:
    """Return Django's connection, reopened if it is broken: known before, or found by the first check of a request.

    Django's own cursor does only the second check; a program without requests would get a broken connection forever.
    Inside a transaction it is kept: a new connection would store only half of the transaction's changes.
    """
    django: Any = connections["default"]
    if django.connection is not None and django.connection.closed and not django.in_atomic_block:
        django.close()
    if not django.health_check_done and _answered_lately(django.connection):
        django.health_check_done = True  # it would ask the server, which takes as long as a short statement
    django.close_if_health_check_failed()
    return django


def _answered_lately(raw: Any) -> bool:
    """Return whether a connection has answered a moment ago and is silent since: a server that closes it says so."""
    if raw is None or raw.closed or time.monotonic() - getattr(raw, "answered_at", float("-inf")) > LATELY_S:
        return False
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    return not poll.poll(0)


class PrivateConnection:
    """One private connection in autocommit, guarded by a lock; opened on first use, in the process that uses it."""

    def __init__(
        self, name: str, *, timeout_s: float | None = None, lock_timeout_s: float | None = None
    ) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._timeout_s = timeout_s or settings.ESTEIRA_LEASE_SECONDS
        self._lock_timeout_s = lock_timeout_s or self._timeout_s
        self._connection: psycopg.Connection[Row] | None = None

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement; a deadlock is tried again, unless a transaction is open."""
        with self.lock:
            for left in range(DEADLOCK_TRIES, -1, -1):
                try:
                    return self._once(sql, params)
                except psycopg.errors.DeadlockDetected:
                    if not left or self._in_transaction():
                        raise
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.lock:
            connection = self._open()
            try:
                with connection.transaction():
                    yield
            except psycopg.Error as error:
                if not self._in_transaction():
                    self._drop_after(error)
                raise
            finally:
                self._drop_if_broken()

    def connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        with self.lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def forget(self) -> None:
        """Drop an inherited connection without sending anything to the server: it belongs to the parent process."""
        self._connection = None
        self.lock = threading.RLock()

    def _once(self, sql: str, params: Params) -> list[Row]:
        connection = self._open()
        try:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if not self._in_transaction():
                self._drop_after(error)
            if (judged := _judged(error)) is error:
                raise
            raise judged from error
        finally:
            self._drop_if_broken()

    def _drop_after(self, error: psycopg.Error) -> None:
        """Close a connection whose server cannot do its work.

        The next one may reach another server, or a repaired one.
        """
        if _class_of(error) not in VALUE_CLASSES and not isinstance(error, BUSY):
            self.close()

    def _in_transaction(self) -> bool:
        status = self._connection.info.transaction_status if self._connection else None
        return status is not None and status != psycopg.pq.TransactionStatus.IDLE

    def _drop_if_broken(self) -> None:
        if self._connection is not None and (self._connection.closed or self._connection.broken):
            self._connection.close()
            self._connection = None

    def _open(self) -> psycopg.Connection[Row]:
        if self._connection is None:
            self._connection = connect(
                self.name, timeout_s=self._timeout_s, lock_timeout_s=self._lock_timeout_s
            )
        return self._connection


def _class_of(error: psycopg.Error) -> str:
    return (error.sqlstate or "")[:2]


def _judged(error: psycopg.Error) -> psycopg.Error:
    """Return an error of the right class: one of `ConnectionLost`, or another one if the value is at fault."""
    if _class_of(error) == "54":
        return LimitExceeded(str(error))
    if _class_of(error) in VALUE_CLASSES or isinstance(error, ConnectionLost):
        return error
    return Unavailable(str(error))


def connect(name: str, *, timeout_s: float, lock_timeout_s: float | None = None) -> psycopg.Connection[Row]:
    """Open a private connection with Django's address; statements and an unresponsive server end after `timeout_s`.

    A statement waits for a lock as long, or for `lock_timeout_s`.
    """
    asked = dict(connections["default"].get_connection_params())
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        asked.pop(ours, None)
    asked.update(application_name=f"esteira {name}"[:63], connect_timeout=max(2, min(3, int(timeout_s))))
    asked.update(liveness(timeout_s), autocommit=True)
    connection: psycopg.Connection[Row] = psycopg.connect(**asked)
    limit_waits(connection, timeout_s + SERVER_FIRST_S)
    millis = int(timeout_s * 1000)
    # The core's statements find rows by key, so one plan is right for all lists, and reading a whole table is always
    # wrong, however small the planner estimates it.
    connection.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
        " set_config('tcp_user_timeout', %s, false), set_config('plan_cache_mode', 'force_generic_plan', false),"
        " set_config('enable_seqscan', 'off', false), set_config('TimeZone', 'UTC', false),"
        # With seqscan off every plan looks expensive, so a server with default settings would compile each of them.
        " set_config('jit', 'off', false), set_config('log_parameter_max_length_on_error', '0', false)",
        [str(millis), str(int((lock_timeout_s or timeout_s) * 1000)), str(millis)],
    )
    read_any_moment(connection, keep=False)
    return connection


def limit_waits(connection: psycopg.Connection[Any], patience_s: float) -> None:
    """Let no call on a connection wait longer for the server; after that it raises, and the connection is closed.

    A server whose processes are stopped, or whose disk does not answer, keeps its connections open without responding:
    neither its own timeouts nor those of TCP end the wait.
    """
    wait = connection.wait

    def limited(gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return wait(gen, interval, patience_s if timeout is None else timeout)
        except psycopg.OperationalError:
            if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                connection.close()
            raise

    connection.wait = limited  # type: ignore[method-assign]  # Django creates its connections itself


@contextmanager
def briefly(purpose: str) -> Iterator[PrivateConnection]:
    """Open a connection for a few statements, and close it."""
    core = PrivateConnection(purpose, timeout_s=PARENT_TIMEOUT_S)
    try:
        yield core
    finally:
        core.close()


def liveness(timeout_s: float) -> dict[str, int]:
    """Return connection options that detect a dead server within `timeout_s`."""
    step = max(1, int(timeout_s // 4))
    return {
        "keepalives": 1,
        "keepalives_idle": step,
        "keepalives_interval": step,
        "keepalives_count": 3,
        "tcp_user_timeout": int(timeout_s * 1000),
    }
