"""A connection that is reset and reused by the next job: its session is as good as new, without a new connect.

The reset is sent when a job ends, and the server answers meanwhile, so the next job hardly waits for it. A connection
that is not idle and healthy after it is closed, and the next job gets a new one. This uses psycopg's lowest layer,
because Django's wrapper and psycopg's connection object keep the changes that a job made to them.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import pq
from psycopg.adapt import AdaptersMap

from esteira.db.orm import session_settings

#: An interrupted statement may take this long to stop.
CALM_S = 2.0

#: `DISCARD ALL` in its parts, because as one statement it cannot be sent together with others.
RESET_SQL = """CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all();
  SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; DISCARD TEMP; DISCARD SEQUENCES; """

IDLE = pq.TransactionStatus.IDLE
_FINE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_COPYING = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)


def is_open(wrapper: BaseDatabaseWrapper) -> bool:
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
    """Cancel the statement that a time limit interrupted, so that the connection shows its transaction's state."""
    deadline = time.monotonic() + CALM_S
    with suppress(psycopg.Error):
        raw.cancel_safe(timeout=CALM_S)
        _answers(raw.pgconn, deadline)


def park(wrapper: Any, raw: psycopg.Connection[Any]) -> Parked | None:
    """Send the reset of the session to the server, without waiting for its answer."""
    if _is_old(wrapper.close_at) or getattr(wrapper, "pool", None):
        return None
    if is_open(wrapper) or raw.closed or raw.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return None
    pgconn, raw.pgconn = raw.pgconn, _ended()  # other references to the job's connection find it closed
    try:
        pgconn.send_query(RESET_SQL.encode() + session_settings(wrapper, settings.ESTEIRA_LEASE_SECONDS))
        if pgconn.flush():
            return None
    except psycopg.Error:
        return None
    return Parked(pgconn, wrapper.close_at)


class Parked:
    """A connection whose server still processes the reset, and the wrapper that will take it."""

    borrower: Any

    def __init__(self, pgconn: pq.abc.PGconn, close_at: float | None) -> None:
        self._pgconn: pq.abc.PGconn | None = pgconn
        self._close_at = close_at

    def lend(self, params: dict[str, Any]) -> Any:
        """Give Django the connection if the reset made it as good as new, another one otherwise."""
        del self.borrower.get_new_connection  # the next one is opened normally
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
        """End the session at once.

        It and its borrower refer to each other, so only the garbage collector would do it.
        """
        pgconn, self._pgconn = self._pgconn, None
        if pgconn is not None:
            pgconn.finish()

    def _is_new(self, pgconn: pq.abc.PGconn) -> bool:
        if _is_old(self._close_at):
            return False
        fine = False
        try:
            fine = _answers(pgconn, time.monotonic() + settings.ESTEIRA_LEASE_SECONDS)
        except psycopg.Error:
            pass
        finally:  # a time limit may hit here: a half-read connection must not be used
            if not fine:
                pgconn.finish()
        return fine


class _Connected:
    """Replaces psycopg's module where Django connects: it returns the existing connection with Django's parameters."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn

    def connect(self, *, cursor_factory: Any, context: Any, prepare_threshold: int | None, **_: Any) -> Any:
        """Wrap the connection again, so that no adapter, handler or attribute of the last job is left."""
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
    """Return whether a connection has the age at which Django closes it (CONN_MAX_AGE)."""
    return close_at is not None and time.monotonic() >= close_at


def _answers(pgconn: pq.abc.PGconn, deadline: float) -> bool:
    """Read all pending answers; return whether each was successful and the connection is idle afterwards."""
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
            return False  # otherwise the same result would be returned again and again
        else:
            fine = fine and result.status in _FINE
    if poll.poll(
        0
    ):  # no statement is running: this is a notice, a notification, or the server's last message
        pgconn.consume_input()
    while pgconn.notifies() is not None:
        continue
    return fine and pgconn.status == pq.ConnStatus.OK and pgconn.transaction_status == IDLE


def _ended() -> pq.abc.PGconn:
    """Return a connection that was never open."""
    pgconn = pq.PGconn.connect_start(b"host=/ port=1")
    pgconn.finish()
    return pgconn
