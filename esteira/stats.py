"""What ran how often and how long: counted in memory, added to the database every 5 s, never per job.

It feeds metrics, charts, typical times and the size of hints; a killed process loses its last seconds of it, and
nothing else.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import defaultdict

from esteira.db import Db

#: Upper bounds of the run time buckets in seconds; the last bucket holds the rest.
BOUNDS_S = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3600)

#: So many runs make a typical run time, and are told at once the first time.
MEASURED = 20

Key = tuple[str, str, str]


class _Cell:
    __slots__ = ("buckets", "n", "sum_ms")

    def __init__(self) -> None:
        self.n, self.sum_ms = 0, 0.0
        self.buckets = [0] * (len(BOUNDS_S) + 1)


class Stats:
    """Counts of one process by type, queue and end; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cells: dict[Key, _Cell] = defaultdict(_Cell)
        self._told: set[Key] = set()

    def __bool__(self) -> bool:
        return bool(self._cells)

    def news(self) -> bool:
        """Whether something was counted often that this process never told before: batches wait for its run time."""
        with self._lock:
            return any(cell.n >= MEASURED and key not in self._told for key, cell in self._cells.items())

    def add(self, type: str, queue: str, state: str, seconds: float) -> None:
        with self._lock:
            cell = self._cells[type, queue, state]
            cell.n += 1
            cell.sum_ms += seconds * 1000
            cell.buckets[bisect_right(BOUNDS_S, seconds)] += 1

    def flush(self, db: Db) -> None:
        """Add what was counted to the current minute's rows; on an error it is kept for the next time."""
        with self._lock:
            cells, self._cells = self._cells, defaultdict(_Cell)
        if not cells:
            return
        try:
            _upsert(db, cells)
        except Exception:
            self._put_back(cells)
            raise
        self._told.update(cells)

    def _put_back(self, cells: dict[Key, _Cell]) -> None:
        with self._lock:
            for key, old in cells.items():
                cell = self._cells[key]
                cell.n += old.n
                cell.sum_ms += old.sum_ms
                cell.buckets = [a + b for a, b in zip(cell.buckets, old.buckets, strict=True)]


def _upsert(db: Db, cells: dict[Key, _Cell]) -> None:
    keys = sorted(cells)  # one order for everybody, so that two processes cannot deadlock
    db.fetch(
        """
        INSERT INTO esteira_stat AS s (minute, type, queue, state, n, sum_ms, buckets)
        SELECT date_trunc('minute', clock_timestamp()), v.type, v.queue, v.state, v.n, v.sum_ms, v.buckets::jsonb
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::float8[], %s::text[])
          AS v(type, queue, state, n, sum_ms, buckets)
        ON CONFLICT (minute, type, queue, state) DO UPDATE SET n = s.n + excluded.n,
          sum_ms = s.sum_ms + excluded.sum_ms,
          buckets = (SELECT jsonb_agg(a.v::bigint + b.v::bigint ORDER BY a.i)
                     FROM jsonb_array_elements_text(s.buckets) WITH ORDINALITY AS a(v, i)
                     JOIN jsonb_array_elements_text(excluded.buckets) WITH ORDINALITY AS b(v, i) USING (i))""",
        [
            [key[0] for key in keys],
            [key[1] for key in keys],
            [key[2] for key in keys],
            [cells[key].n for key in keys],
            [cells[key].sum_ms for key in keys],
            [json.dumps(cells[key].buckets) for key in keys],
        ],
    )
