"""One database session per job: no transaction, setting or object of a session reaches the next job.

Jobs that a pool process runs one after the other share Django's connections. The connection's real state decides, not
Django's view of it: Django does not notice a raw `BEGIN`. A connection that a job used is reset to its initial state,
and lent to the next job that needs one; with an open transaction it is closed instead. A job that used no connection
costs nothing. If the process dies here, the server rolls back and ends the session.

Functions that asyncio code calls by `sync_to_async` run in a separate thread, which outlives the event loop; its
connections are closed after the job that used it. Connections that a job's own threads leave open end with those
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
from asgiref.sync import SyncToAsync
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from esteira.db.parked import CALM_S, Parked, is_open, park


class LeftOpen(Exception):
    """A job returned with an open transaction: its changes there are rolled back, so it has not succeeded."""


def left_open() -> LeftOpen | None:
    """Return an error if the job has left a transaction open on some connection."""
    aliases = _open_aliases()
    if _thread.is_used:
        aliases += _thread.ask(_open_aliases) or []
    if not aliases:
        return None
    names = " and ".join(map(repr, sorted(set(aliases))))
    return LeftOpen(
        f"The job returned with a transaction open on the database connection {names};"
        " what it wrote there has been rolled back. End a transaction that begins with BEGIN or set_autocommit(False)"
        " with COMMIT, or use transaction.atomic()."
    )


def reset() -> None:
    """Take back every connection that the job used, and make it as good as new."""
    for wrapper in mine():
        if (
            wrapper.connection is not None
            or wrapper.in_atomic_block
            or wrapper.execute_wrappers
            or wrapper.force_debug_cursor
        ):
            _renew(wrapper)
    _end_thread()


def close() -> None:
    """Close every connection, also those that wait for a next job."""
    _forget_mine()
    _end_thread()


def disown() -> None:
    """Drop the connections that a forked child has inherited: sending anything would end the parent's session."""
    for wrapper in mine():
        connections[wrapper.alias] = connections.create_connection(wrapper.alias)
    _renew_thread()  # threads are not copied by a fork


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
    """Make `sync_to_async` use a thread whose connections are tracked here."""
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
    for wrapper in mine():
        _forget(wrapper)


def _open_aliases() -> list[str]:
    return [one.alias for one in mine() if one.connection is not None and is_open(one)]


def mine() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections like `connections.all(initialized_only=True)`, in a tenth of the time.

    Connections that are opened inside an event loop are in a context variable, and end with the loop's tasks.
    """
    kept: Any = connections._connections  # type: ignore[attr-defined]
    try:
        found = vars(kept._storage)
    except AttributeError:  # another release of asgiref keeps them elsewhere
        return list(connections.all(initialized_only=True))
    return [one for one in found.values() if isinstance(one, BaseDatabaseWrapper)]


def _renew(wrapper: BaseDatabaseWrapper) -> None:
    raw: Any = wrapper.connection
    parked = park(wrapper, raw) if isinstance(raw, psycopg.Connection) and not raw.closed else None
    if parked is None:
        _forget(wrapper)
        return
    fresh: Any = connections.create_connection(wrapper.alias)
    fresh.get_new_connection = parked.lend
    parked.borrower = fresh
    connections[wrapper.alias] = fresh


def _forget(wrapper: BaseDatabaseWrapper) -> None:
    """Close a connection and drop its state, because Django keeps the nesting of an unfinished transaction."""
    raw: Any = wrapper.connection
    parked = getattr(vars(wrapper).get("get_new_connection"), "__self__", None)
    if isinstance(parked, Parked):
        parked.close()
    with suppress(DatabaseError, psycopg.Error):
        if isinstance(raw, psycopg.Connection):
            raw.close()  # a pool, to which Django would return it, must not get it
        wrapper.close()
    connections[wrapper.alias] = connections.create_connection(wrapper.alias)
