"""One database session per job: no transaction, setting or object of a session reaches the next job.

Jobs that a pool process runs one after the other share Django's connections. What decides is the connection's real
state, not what Django believes of it: a raw `BEGIN` is unknown to Django. A connection that a job touched is reset to
how it was when it was new, and lent to the next job that asks for one; with a transaction open it is closed instead.
The reset is sent when the job ends and answered while something else happens, so the next job hardly waits for it; a
job that touched no connection costs nothing. If the process dies here, the server rolls back and forgets the session.

What asyncio calls by `sync_to_async` runs in a thread of its own, which outlives the event loop; its connections are
closed after the job that used it. What a job's own threads leave open ends with those threads.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
from asgiref.sync import SyncToAsync
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import pq
from psycopg.adapt import AdaptersMap

from esteira.orm import session_settings

#: So long a statement that was interrupted may take to stop.
CALM_S = 2.0

#: `DISCARD ALL` in its parts, because as one it must not travel together with others.
RESET_SQL = """CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all();
  SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; DISCARD TEMP; DISCARD SEQUENCES; """

IDLE = pq.TransactionStatus.IDLE
_FINE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


class LeftOpen(Exception):
    """A job returned with a transaction open: what it wrote there is undone, so it has not succeeded."""


def left_open() -> LeftOpen | None:
    """Return an error if the job has left a transaction open on some connection."""
    aliases = sorted({*_open_aliases(), *(_thread.ask(_open_aliases) or [])})
    if not aliases:
        return None
    return LeftOpen(
        f"The job returned with a transaction open on the database connection {' and '.join(map(repr, aliases))};"
        " what it wrote there has been rolled back. End a transaction that begins with BEGIN or set_autocommit(False)"
        " with COMMIT, or use transaction.atomic()."
    )


def settle() -> None:
    """Take back every connection that the job touched, and make it as good as new."""
    for wrapper in _mine():
        if (
            wrapper.connection is not None
            or wrapper.in_atomic_block
            or wrapper.execute_wrappers
            or wrapper.force_debug_cursor
        ):
            _renew(wrapper)
    _end_thread()


def close() -> None:
    """Close every connection, those that wait for a next job included."""
    _forget_mine()
    _end_thread()


def disown() -> None:
    """Drop what a forked child has inherited: one word to the server would end the parent's session."""
    for wrapper in _mine():
        connections[wrapper.alias] = connections.create_connection(wrapper.alias)
    _renew_thread()  # it was not forked


class _AsyncThread(ThreadPoolExecutor):
    """The one thread that `sync_to_async` uses in a process whose main thread runs the event loop."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="esteira-async")
        self.is_used = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.is_used = True
        return super().submit(fn, *args, **kwargs)

    def ask(self, question: Callable[[], Any]) -> Any:
        """Return the thread's answer; None if it has done nothing yet, or is busy for too long."""
        if not self.is_used:
            return None
        with suppress(TimeoutError, RuntimeError):  # RuntimeError: the job has shut it down
            return self.submit(question).result(2 * CALM_S)


_thread = _AsyncThread()


def keep_thread() -> None:
    """Let `sync_to_async` use a thread whose connections are known here."""
    SyncToAsync.single_thread_executor = _thread


def _end_thread() -> None:
    if _thread.is_used:
        _thread.ask(_forget_mine)
        _thread.shutdown(wait=False, cancel_futures=True)
        _renew_thread()


def _renew_thread() -> None:
    global _thread
    _thread = _AsyncThread()
    keep_thread()


def _forget_mine() -> None:
    for wrapper in _mine():
        _forget(wrapper)


def _open_aliases() -> list[str]:
    return [one.alias for one in _mine() if _is_open(one)]


def _mine() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections as `connections.all(initialized_only=True)` does, in a tenth of the time.

    What is opened inside an event loop lies in a context variable beside them, and ends with the loop's tasks.
    """
    kept: Any = connections._connections  # type: ignore[attr-defined]
    try:
        found = list(vars(kept._storage).values())
    except AttributeError:  # another release of asgiref keeps them elsewhere
        return list(connections.all(initialized_only=True))
    return [one for one in found if isinstance(one, BaseDatabaseWrapper)]


def _is_open(wrapper: BaseDatabaseWrapper) -> bool:
    raw: Any = wrapper.connection
    if raw is None:
        return False
    if not isinstance(raw, psycopg.Connection):
        return bool(getattr(raw, "in_transaction", wrapper.in_atomic_block))
    if raw.closed:
        return False
    if raw.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        _calm(raw)
    return not raw.closed and raw.pgconn.transaction_status != IDLE


def _calm(raw: psycopg.Connection[Any]) -> None:
    """Stop the statement in whose middle a time limit has hit; only then does the connection say what is open."""
    deadline = time.monotonic() + CALM_S
    with suppress(psycopg.Error):
        raw.cancel_safe(timeout=CALM_S)
        _answers(raw.pgconn, deadline)


def _renew(wrapper: BaseDatabaseWrapper) -> None:
    raw: Any = wrapper.connection
    parked = _park(wrapper, raw) if isinstance(raw, psycopg.Connection) and not raw.closed else None
    if parked is None:
        _forget(wrapper)
        return
    fresh: Any = connections.create_connection(wrapper.alias)
    fresh.get_new_connection = parked.lend
    parked.borrower = fresh
    connections[wrapper.alias] = fresh


def _forget(wrapper: BaseDatabaseWrapper) -> None:
    """Close a connection and forget its state: Django keeps the nesting of a transaction that nobody left."""
    raw: Any = wrapper.connection
    parked = getattr(vars(wrapper).get("get_new_connection"), "__self__", None)
    if isinstance(parked, _Parked):
        parked.close()
    with suppress(DatabaseError, psycopg.Error):
        if isinstance(raw, psycopg.Connection):
            raw.close()  # a pool, which is where Django would put it, must not take it
        wrapper.close()
    connections[wrapper.alias] = connections.create_connection(wrapper.alias)


def _park(wrapper: Any, raw: psycopg.Connection[Any]) -> _Parked | None:
    """Ask the server to reset the session, without waiting for its answer."""
    if _is_old(wrapper.close_at) or getattr(wrapper, "pool", None):
        return None
    if _is_open(wrapper) or raw.closed or raw.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return None
    pgconn, raw.pgconn = raw.pgconn, _ended()  # who still holds the job's connection finds it closed
    try:
        pgconn.send_query(RESET_SQL.encode() + session_settings(wrapper, settings.LEASE_SECONDS))
        if pgconn.flush():
            return None
    except psycopg.Error:
        return None
    return _Parked(pgconn, wrapper.close_at)


class _Parked:
    """A connection whose server still works at the reset, and the wrapper that will take it."""

    borrower: Any

    def __init__(self, pgconn: pq.abc.PGconn, close_at: float | None) -> None:
        self._pgconn: pq.abc.PGconn | None = pgconn
        self._close_at = close_at

    def lend(self, params: dict[str, Any]) -> Any:
        """Give Django the connection if it came out of the reset as new, another one otherwise."""
        del self.borrower.get_new_connection  # the next one is opened as ever
        made = self.borrower.get_new_connection
        pgconn, self._pgconn = self._pgconn, None
        if pgconn is None or not self._is_new(pgconn):
            return made(params)
        self.borrower.Database = _Connected(pgconn)
        try:
            return made(params)
        finally:
            del self.borrower.Database
            self.borrower.close_at = self._close_at

    def close(self) -> None:
        """End the session at once: it and its borrower know each other, so only the garbage collector would."""
        pgconn, self._pgconn = self._pgconn, None
        if pgconn is not None:
            pgconn.finish()

    def _is_new(self, pgconn: pq.abc.PGconn) -> bool:
        if _is_old(self._close_at):
            return False
        fine = False
        try:
            fine = _answers(pgconn, time.monotonic() + settings.LEASE_SECONDS)
        except psycopg.Error:
            pass
        finally:  # a time limit may hit here: nobody can use what was half read
            if not fine:
                pgconn.finish()
        return fine


class _Connected:
    """Stands in for psycopg's module where Django connects: the connection is there, and gets Django's parameters."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn

    def connect(self, *, cursor_factory: Any, context: Any, prepare_threshold: int | None, **_: Any) -> Any:
        """Wrap the connection anew, so that no adapter, handler or attribute of the last one is left."""
        connection: Any = psycopg.Connection(self._pgconn)
        connection.settled = True
        connection.cursor_factory = cursor_factory
        connection._adapters = AdaptersMap(context.adapters)
        assert connection.adapters is connection._adapters, (
            "psycopg keeps a connection's adapters elsewhere now"
        )
        connection.prepare_threshold = prepare_threshold
        return connection


def _is_old(close_at: float | None) -> bool:
    """Whether a connection has the age at which Django closes it (CONN_MAX_AGE)."""
    return close_at is not None and time.monotonic() >= close_at


def _answers(pgconn: pq.abc.PGconn, deadline: float) -> bool:
    """Read all answers that are due; return whether each was fine and the connection is idle afterwards."""
    fine, poll = True, select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while True:
        if pgconn.is_busy():
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
            pgconn.consume_input()
        elif (result := pgconn.get_result()) is None:
            break
        elif result.status in _COPYING:
            return False  # it would be answered again and again
        else:
            fine = fine and result.status in _FINE
    if poll.poll(
        0
    ):  # nobody has asked anything: these are a notice, a notification, or the server's last words
        pgconn.consume_input()
    while pgconn.notifies() is not None:
        continue
    return fine and pgconn.status == pq.ConnStatus.OK and pgconn.transaction_status == IDLE


def _ended() -> pq.abc.PGconn:
    """Return a connection that was never one."""
    pgconn = pq.PGconn.connect_start(b"host=/ port=1")
    pgconn.finish()
    return pgconn
