"""Distinguish a lost connection from a failed query: only the second counts as the job's own error.

A lost connection has two signs. Some error in the chain that the function raised comes from a server or a client that
was cut off. And the connection is closed by now, or a second one was opened since the job began: Django opens the next
one by itself when it leaves a transaction. A failed query leaves its connection open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import psycopg
from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from esteira.db import VALUE_CLASSES, ConnectionLost, sessions

#: SQLSTATEs of a session that the server ended or did not open: connection exceptions, no resources for another
#: session, shutdown or crash, and a transaction that was idle or open for too long.
_ENDS = ("08", "53", "57P", "25P03", "25P04")
#: Errors of a transaction on a healthy server: its values, a conflict, an unavailable lock, a cancelled statement.
_OF_THE_TRANSACTION = (*VALUE_CLASSES, "40", "55", "57014")
#: A chain is followed up to this length; an error's own code may make it endless.
CHAIN_MAX = 100

#: An error's class may override these attributes with code that raises.
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__
_members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


#: When this process opened its latest Django connections; each job opens its first one.
_opened: deque[float] = deque(maxlen=2)


def watch_connections() -> None:
    """Record from now on when this process opens a Django connection."""
    connection_created.connect(_note_opening, dispatch_uid="esteira.db.lost")


def _note_opening(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.alias == "default":
        _opened.append(time.monotonic())


def is_closed(raw: psycopg.Connection[object] | None) -> bool:
    """Return whether a driver's connection is gone; Django drops its own after it has noticed a break."""
    return raw is None or raw.closed or raw.broken


def lost_connection(
    error: BaseException, *, since: float, connected: bool, core_errors: tuple[BaseException, ...]
) -> BaseException | None:
    """Return the error by which a job's connection was lost, from the chain of what its function raised, or None.

    `since` is when the job began, by `time.monotonic()`, and `connected` whether a Django connection existed then.
    `core_errors` are the errors that the core's private connection raised for the function; any of them counts.
    """
    for one in _chain(error):
        if any(one is core for core in core_errors):
            return one
        if issubclass(type(one), ConnectionLost) and _ended_session(one) and _was_lost(one, since, connected):
            return one
    return None


def _was_lost(error: BaseException, since: float, connected: bool) -> bool:
    """Return whether the job's connection is gone, was replaced, or could not be opened at all."""
    had = connected + sum(at >= since for at in _opened)
    raw = connections["default"].connection
    if raw is None:
        return had > 0 or issubclass(type(error), DatabaseError | InterfaceError)
    return had > 1 or is_closed(raw)


def is_connected() -> bool:
    """Return whether this process has a Django connection now."""
    return any(one.alias == "default" and one.connection is not None for one in sessions.mine())


def blames_the_writer(error: BaseException) -> bool:
    """Return whether one of Esteira's statements failed because of its transaction, and not because of the server."""
    state = _sqlstate(error)
    return state is None or state.startswith(_OF_THE_TRANSACTION)


def _ended_session(error: BaseException) -> bool:
    """Return whether an error ended the session; without an SQLSTATE it comes from the client, which was cut off."""
    state = _sqlstate(error)
    return state is None or state.startswith(_ENDS)


def _sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of the driver's error, or of the one that Django's error wraps."""
    for one in (error, error.__cause__):
        if isinstance(one, psycopg.Error):
            return one.sqlstate
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, its contexts, and the members of groups; each once.

    The class is checked, because `isinstance` would use the error's own code, which may raise.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting and len(seen) < CHAIN_MAX:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [_cause_of(one), _context_of(one)]
        if issubclass(type(one), BaseExceptionGroup):
            waiting += _members_of(one)
