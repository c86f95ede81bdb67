"""A database whose clock can be moved: a `clock_timestamp()` of our own is found before PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


@contextmanager
def movable(url: str) -> Iterator[Callable[[float], Any]]:
    """Give what moves the clock by some seconds; connections that are opened meanwhile live by it."""
    with psycopg.connect(url, autocommit=True) as own:
        (name,) = own.execute("SELECT current_database()").fetchone() or ("",)
        own.execute("DROP SCHEMA IF EXISTS moved CASCADE")
        own.execute("CREATE SCHEMA moved")
        own.execute("CREATE TABLE moved.by AS SELECT 0::float8 AS seconds")
        own.execute(
            """CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
               $$ SELECT pg_catalog.clock_timestamp() + seconds * interval '1 second' FROM moved.by $$"""
        )
        own.execute(f'ALTER DATABASE "{name}" SET search_path = moved, pg_catalog, public')
        try:
            yield lambda seconds: own.execute("UPDATE moved.by SET seconds = seconds + %s", [seconds])
        finally:
            own.execute(f'ALTER DATABASE "{name}" RESET search_path')
            own.execute("DROP SCHEMA moved CASCADE")
