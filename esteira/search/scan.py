"""Read jobs in the order of lists, newest first or oldest first, by one index at a time and within bounds.

A walk follows an index in slices, until enough jobs are found or the bounds of its search are reached: 50,000 rows,
which take about 25 ms from memory, or 0.1 s. Rows that are usually few are collected: all of them are read, in any
order.

The planner cannot choose the index, because with old or missing statistics it would read the whole table: a walk orders
by the columns that only its index has in this order, compares rows with a key, and checks all other conditions only
after a LIMIT. Nothing is written here; a process that dies here only loses a read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from psycopg.errors import QueryCanceled

from esteira import ids
from esteira.db import Db, Row
from esteira.states import RETRYABLE

T = TypeVar("T")

#: The position of a job in every list.
Key = tuple[datetime, UUID]
LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)

#: The walks of a search read at most this many rows, and begin no slice after this time; slices are planned to end by
#: then.
MOST_ROWS, BUDGET_S = 50_000, 0.1
#: The rows of a walk's first slice, the fewest of any later one, and those of the only slice of a glance.
FIRST_ROWS, LEAST_ROWS, GLANCE_ROWS = 2_000, 500, 200
#: At most this many waiting rows, and this many running ones, are collected: they are usually close together.
MOST_COLLECTED, MOST_RUNNING = 2_000, 5_000
#: No statement takes longer, for any number of dead rows and on a slow disk. The shorter limit is for a statement that
#: another kind of search can replace.
LIMIT_S, SOON_S = 1.0, 0.15


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The jobs between two keys, without these; read from the newer end on, or from the older one."""

    after: Key | None
    before: Key | None
    older: bool

    def asked(self) -> dict[str, Any]:
        after, before = self.after or ("-infinity", LOWEST), self.before or ("infinity", HIGHEST)
        return {
            "after_at": after[0],
            "after_id": after[1],
            "before_at": before[0],
            "before_id": before[1],
            "after_any": _id_at(self.after) or LOWEST,
            "before_any": _id_at(self.before) or HIGHEST,
        }

    def beyond(self, key: Key) -> Stretch:
        """Return the rest of the stretch after everything up to a key was read."""
        return replace(self, before=key) if self.older else replace(self, after=key)

    def begins_at(self) -> Key | None:
        return self.before if self.older else self.after


def _id_at(key: Key | None) -> UUID | None:
    """Return the place of a key among all ids: a key may be a job's, or the beginning or the end of a moment."""
    if key is None or key[1] not in (LOWEST, HIGHEST):
        return key and key[1]
    return ids.lowest(key[0]) if key[1] == LOWEST else ids.highest(key[0])


@dataclass(frozen=True, kw_only=True)
class Part:
    """The jobs that were found, in the order of reading.

    Complete up to `reached`, or for the whole stretch if that is None.

    `looked_at`: how many rows were read for it, if the walk did not reach its end.
    """

    keys: list[Key]
    reached: Key | None = None
    looked_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index with the jobs that it holds in the order of lists, in one range for each value of `first`.

    Without `first` it is the primary key: ids are in the order of creation.
    """

    first: str
    holds: str

    def ordered(self, direction: str) -> str:
        columns = (self.first, "j.created_at", "j.id") if self.first else ("j.id",)
        return ", ".join(f"{column} {direction}" for column in columns)

    def compared(self, sign: str, which: str) -> str:
        """Return SQL that compares a row with an end of a stretch."""
        if not self.first:
            return f"j.id {sign} %({which}_any)s::uuid"
        end = f"(%(first)s, %({which}_at)s::timestamptz, %({which}_id)s::uuid)"
        return f"({self.first}, j.created_at, j.id) {sign} {end}"


ALL = Index(first="", holds="true")
ENDED_BADLY = Index(
    first="j.state", holds=f"j.state IN ({', '.join(repr(str(state)) for state in sorted(RETRYABLE))})"
)
OF_ACCOUNT = Index(first="j.account", holds="j.account IS NOT NULL")
LATER = Index(
    first="(j.failures > 0)",
    holds="j.state = 'queued' AND (j.run_at - j.created_at > interval '1 second'"
    " OR j.run_at - j.created_at < interval '-1 second')",
)


class Scan:
    """The reads of one search: they share its bounds, and each returns None if it has no answer in time."""

    def __init__(self, db: Db, asked: Mapping[str, Any], *, most: int) -> None:
        self._db, self._asked, self._most = db, asked, most
        self._rows_left, self._left_s = MOST_ROWS, BUDGET_S

    def walk(
        self, index: Index, fits: str, stretch: Stretch, *, first: Any = None, glance: bool = False
    ) -> Part | None:
        """Follow an index, in its range of `first`, until enough is found or the bounds are reached.

        A glance is one short slice, whatever it finds.
        """
        keys, looked_at, rows = list[Key](), 0, GLANCE_ROWS if glance else min(FIRST_ROWS, MOST_ROWS)
        while rows:
            began = time.monotonic()
            found = self._slice(
                index, fits, stretch, {"first": first, "rows": rows, "most": self._most - len(keys)}
            )
            if found is None:
                return (
                    Part(keys=keys, reached=stretch.begins_at(), looked_at=looked_at) if looked_at else None
                )
            keys += [(at, job_id) for at, job_id, does_fit, _ in found if does_fit]
            if len(keys) >= self._most:
                return Part(keys=keys, reached=keys[-1])
            if not found or found[-1][3] < rows:
                return Part(keys=keys)
            looked_at, self._rows_left = looked_at + rows, self._rows_left - rows
            stretch = stretch.beyond((found[-1][0], found[-1][1]))
            rows = 0 if glance else self._next_rows(rows, time.monotonic() - began)
        return Part(keys=keys, reached=stretch.begins_at(), looked_at=looked_at)

    def collect(self, seen: str, stretch: Stretch, most: int) -> Part | None:
        """Read the rows of the common table expression `seen` and select the matches.

        None also if there are more rows.
        """
        direction = "DESC" if stretch.older else "ASC"
        rows = self.fetch(
            f"""WITH {seen}
            SELECT counted.number, f.created_at, f.id FROM (SELECT count(*) AS number FROM seen) AS counted
            LEFT JOIN LATERAL (
              SELECT s.created_at, s.id FROM seen s
              WHERE s.fits AND (s.created_at, s.id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
                AND (s.created_at, s.id) > (%(after_at)s::timestamptz, %(after_id)s::uuid)
              ORDER BY s.created_at {direction}, s.id {direction} LIMIT %(most)s) AS f ON true""",
            {**stretch.asked(), "cap": most + 1, "most": self._most},
        )
        if rows is None or rows[0][0] > most:
            return None
        keys = [(at, job_id) for _, at, job_id in rows if job_id is not None]
        return Part(keys=keys, reached=keys[-1] if len(keys) == self._most else None)

    def fetch(self, sql: str, more: Mapping[str, Any], limit_s: float = SOON_S) -> list[Row] | None:
        """Run one statement; return None if it took too long."""
        return within(self._db, limit_s, lambda: self._db.fetch(sql, {**self._asked, **more}))

    def _slice(self, index: Index, fits: str, stretch: Stretch, more: Mapping[str, Any]) -> list[Row] | None:
        """Read this many rows: return those that match, and the last of all; each with its number among them."""
        return self.fetch(
            f"""SELECT w.created_at, w.id, w.fits, w.number FROM (
              SELECT n.created_at, n.id, n.fits, row_number() OVER () AS number FROM (
                SELECT j.created_at, j.id, {fits} AS fits FROM esteira_job j
                WHERE {index.holds} AND {index.compared("<", "before")} AND {index.compared(">", "after")}
                ORDER BY {index.ordered("DESC" if stretch.older else "ASC")} LIMIT %(rows)s) AS n) AS w
            WHERE w.fits OR w.number = %(rows)s LIMIT %(most)s""",
            {**stretch.asked(), **more},
            LIMIT_S if index is ALL else SOON_S,
        )

    def _next_rows(self, rows: int, took_s: float) -> int:
        """Return how many rows the next slice may have, to end in time; 0 if the bounds are reached."""
        self._left_s -= took_s
        if self._left_s <= 0:
            return 0
        return max(0, min(self._rows_left, max(LEAST_ROWS, int(rows * self._left_s / max(took_s, 1e-6)))))


def within(db: Db, limit_s: float, work: Callable[[], T]) -> T | None:
    """Run statements that follow indexes in their order; return None if one takes longer than the limit."""
    try:
        with bounded(db, limit_s):
            return work()
    except Exception as error:  # Django wraps the driver's error
        if isinstance(error, QueryCanceled) or isinstance(error.__cause__, QueryCanceled):
            return None
        raise


@contextmanager
def bounded(db: Db, limit_s: float) -> Iterator[None]:
    """Open a transaction whose statements follow indexes in their order, and end after `limit_s`."""
    with db.transaction():
        db.fetch(
            """SELECT set_config('statement_timeout', least(%s::float8, nullif(
                 extract(epoch FROM current_setting('statement_timeout')::interval), 0)::float8)::text || 's', true),
               set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
               set_config('enable_sort', 'off', true)""",
            [limit_s],
        )
        yield
