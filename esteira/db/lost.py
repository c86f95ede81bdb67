"""Tell a lost connection from an error of a query: the one is nobody's fault, the other is the job's own.

A lost connection shows in two places at once: some error in the chain that the function raised comes from a server or a
client that was cut off, and the connection is closed by now, or a second one was opened since the job began: Django
opens the next one by itself when it leaves a transaction. A query that fails leaves its connection open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import psycopg
from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from esteira.db import VALUE_CLASSES, ConnectionLost

#: SQLSTATEs of a session that the server ended or would not open: connection exceptions, no resources for another
#: session, shutdown or crash, and a transaction that was idle or open for too long.
_ENDS = ("08", "53", "57P", "25P03", "25P04")
#: What a healthy server says of a transaction: its values, a conflict, a lock it does not get, a cancelled statement.
_OF_THE_TRANSACTION = (*VALUE_CLASSES, "40", "55", "57014")
#: A chain is followed this far; an error's own code may make it endless.
CHAIN_MAX = 100

#: An error's class may hide these by its own, which may raise.
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__
_members_of = BaseExceptionGroup.__dict__["exceptions"].__get__


#: When this process opened its latest connections of Django's; each job opens its first one.
_opened: deque[float] = deque(maxlen=2)


def watch_connections() -> None:
    """Note from now on when this process opens a connection of Django's."""
    connection_created.connect(_note_opening, dispatch_uid="esteira.db.lost")


def _note_opening(connection: BaseDatabaseWrapper, **_: object) -> None:
    if connection.alias == "default":
        _opened.append(time.monotonic())


def is_closed(raw: psycopg.Connection[object] | None) -> bool:
    """Say whether a driver's connection is gone; Django keeps none after it noticed a break itself."""
    return raw is None or raw.closed or raw.broken


def lost_connection(
    error: BaseException, *, since: float, connected: bool, core_errors: tuple[BaseException, ...]
) -> BaseException | None:
    """Return the error by which a job's connection was lost, from the chain of what its function raised, or None.

    `since` is when the job began, by `time.monotonic()`, and `connected` whether it found a connection of Django's.
    `core_errors` are what the core's private connection raised on the function's behalf; any of them counts.
    """
    for one in _chain(error):
        if any(one is core for core in core_errors):
            return one
        if issubclass(type(one), ConnectionLost) and _ended_session(one) and _was_lost(one, since, connected):
            return one
    return None


def _was_lost(error: BaseException, since: float, connected: bool) -> bool:
    """Say whether the job's connection is gone, was replaced, or could not be opened at all."""
    had = connected + sum(at >= since for at in _opened)
    raw = connections["default"].connection
    if raw is None:
        return had > 0 or issubclass(type(error), DatabaseError | InterfaceError)
    return had > 1 or is_closed(raw)


def is_connected() -> bool:
    """Whether this process has a connection of Django's now."""
    return connections["default"].connection is not None


def blames_the_writer(error: BaseException) -> bool:
    """Say whether a statement of ours failed for a reason of its transaction, and not of the server."""
    state = _sqlstate(error)
    return state is None or state.startswith(_OF_THE_TRANSACTION)


def _ended_session(error: BaseException) -> bool:
    """Without an SQLSTATE an error comes from the client, which was cut off."""
    state = _sqlstate(error)
    return state is None or state.startswith(_ENDS)


def _sqlstate(error: BaseException) -> str | None:
    """Return what the driver's error says, or the one that Django's error stands for."""
    for one in (error, error.__cause__):
        if isinstance(one, psycopg.Error):
            return one.sqlstate
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, what it was raised in the course of, and the members of groups; each once.

    Kinds are asked of the class: `isinstance` would ask the error itself, which may raise.
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
