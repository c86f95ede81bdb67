"""A connection for assertions while everything is broken: it reconnects when its database is back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg

from esteira.db import Params, Row

PATIENCE_S = 30.0


class Observer:
    """A `Db` on the database of a stack, with the questions that its tests ask."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: psycopg.Connection[Row] | None = None

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement; wait for a database that is away. Only for statements that may be repeated."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self.url, autocommit=True, connect_timeout=3)
                cursor = self._connection.execute(sql, params)  # type: ignore[arg-type]
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.fetch("SELECT 1")
        assert self._connection is not None
        with self._connection.transaction():
            yield

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def one(self, sql: str, params: Params = ()) -> Any:
        return self.fetch(sql, params)[0][0]

    def counts(self, ids: Sequence[str | UUID] | None = None) -> dict[str, int]:
        """Return how many jobs are in each stored state."""
        rows = self.fetch(
            """SELECT state, count(*) FROM esteira_job WHERE %(all)s OR id = ANY(%(ids)s::uuid[])
               GROUP BY state""",
            {"all": ids is None, "ids": [str(one) for one in ids or []]},
        )
        return dict(rows)

    def held_by(self, worker: str) -> list[UUID]:
        """Return the jobs that a worker runs under a lease which has not ended."""
        return [
            row[0]
            for row in self.fetch(
                """SELECT id FROM esteira_job WHERE state = 'running' AND lease_until > clock_timestamp()
                     AND starts_with(worker, %s)""",
                [worker],
            )
        ]

    def attempts(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        return dict(self.fetch("SELECT id, attempt FROM esteira_job WHERE id = ANY(%s)", [list(ids)]))
