"""Faults of a database that stays alive: it freezes, refuses writes, or has a long reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import psycopg

from tests.support.observer import Observer
from tests.support.waiting import until


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server with all its processes, and let them go on: its connections stay open, and it answers nothing."""
    main = psutil.Process(pid)
    family = [main, *main.children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    try:
        yield
    finally:
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.resume()


@contextmanager
def read_only(db: Observer) -> Iterator[None]:
    """Let the server refuse every write, in all sessions, as an old primary does after a fail-over."""
    _default_read_only(db.url, "on")
    try:
        yield
    finally:
        _default_read_only(db.url, "off")


def _default_read_only(url: str, value: str) -> None:
    """Change the server's own default; who reads it was told by a signal, and sees it with the next transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")  # type: ignore[arg-type]
        connection.execute("SELECT pg_reload_conf()")
    with psycopg.connect(url, autocommit=True) as connection:
        until(lambda: _default_of(connection) == value, f"sessions are read-only: {value}")


def _default_of(connection: psycopg.Connection) -> str:
    row = connection.execute("SHOW default_transaction_read_only").fetchone()
    return str(row[0]) if row else ""


@contextmanager
def snapshot_held(url: str) -> Iterator[None]:
    """Hold a snapshot as `pg_dump` does: nothing that ended since can be vacuumed away."""
    with psycopg.connect(url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        reader.execute("SELECT count(*) FROM esteira_job")
        yield
