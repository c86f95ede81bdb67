"""A database whose clock can be moved: a `clock_timestamp()` of our own is found before PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

MOVED = (
    "DROP SCHEMA IF EXISTS moved CASCADE",
    "CREATE SCHEMA moved",
    "CREATE TABLE moved.by AS SELECT 0::float8 AS seconds",
    """CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
       $$ SELECT pg_catalog.clock_timestamp() + seconds * interval '1 second' FROM moved.by $$""",
    # Without these, the search path leaves out the schema for who owns nothing, and says nothing.
    "GRANT USAGE ON SCHEMA moved TO PUBLIC",
    "GRANT SELECT ON moved.by TO PUBLIC",
    """DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = moved, pg_catalog, public',
       current_database()); END $$""",
)
BACK = (
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET search_path', current_database()); END $$",
    "DROP SCHEMA moved CASCADE",
)


@contextmanager
def movable(url: str) -> Iterator[Callable[[float], None]]:
    """Give what moves the clock by some seconds; connections that are opened meanwhile live by it."""
    _run(url, *MOVED)
    try:
        yield lambda seconds: _run(url, f"UPDATE moved.by SET seconds = seconds + {seconds:f}")
    finally:
        _run(url, *BACK)


def _run(url: str, *statements: str) -> None:
    """Use a connection for this alone: the server may have been restarted since the last one."""
    with psycopg.connect(url, autocommit=True) as own:
        for statement in statements:
            own.execute(statement)  # type: ignore[arg-type]  # made here, from numbers
