"""Counts of ended attempts and of their run times: kept in memory, added to the database every 5 s, never per job.

Metrics, typical run times and the sizes of hints are computed from them. A process that is killed loses the counts of
its last seconds, and nothing else.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping

from esteira.db import Db

#: The buckets of run times: the column that counts one, and its upper bound in seconds. `longer` counts the rest.
_BELOW = {
    "below_1ms": 0.001,
    "below_10ms": 0.01,
    "below_50ms": 0.05,
    "below_100ms": 0.1,
    "below_500ms": 0.5,
    "below_1s": 1.0,
    "below_5s": 5.0,
    "below_10s": 10.0,
    "below_1min": 60.0,
    "below_5min": 300.0,
    "below_1h": 3600.0,
}
BOUNDS_S = tuple(_BELOW.values())
BUCKETS = (*_BELOW, "longer")
#: The columns to which counts are added.
COUNTS = ("n", "sum_ms", *BUCKETS)

#: A typical run time needs this many runs. The first run of a type, and the one that completes this number, are flushed
#: at once.
MEASURED = 20

#: Type, queue and state.
Label = tuple[str, str, str]

# All statements that count lock their rows in one order, so that two of them cannot deadlock.
_ADD = f"""
INSERT INTO esteira_stat AS s (minute, type, queue, state, {", ".join(COUNTS)})
SELECT date_trunc('minute', clock_timestamp()), v.*
FROM unnest(%s::text[], %s::text[], %s::text[], {", ".join("%s::float8[]" for _ in COUNTS)})
  AS v(type, queue, state)
ORDER BY type, queue, state
ON CONFLICT (minute, type, queue, state) DO UPDATE
SET {", ".join(f"{one} = s.{one} + excluded.{one}" for one in COUNTS)}"""


class Stats:
    """Counts of one process by type, queue and state; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = _no_counts()
        self._flushed: dict[Label, float] = defaultdict(float)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def awaited(self) -> bool:
        """Return whether these are the first runs of a type in this process: the sizes of hints depend on them."""
        with self._lock:
            return any(
                label[2] == "succeeded" and _is_awaited(self._flushed.get(label, 0.0), counts["n"])
                for label, counts in self._counts.items()
            )

    def add(self, type: str, queue: str, state: str, seconds: float) -> None:
        bucket = BUCKETS[bisect_right(BOUNDS_S, seconds)]
        with self._lock:
            self._add((type, queue, state), {"n": 1, "sum_ms": seconds * 1000, bucket: 1})

    def flush(self, db: Db) -> None:
        """Add the counts to the current minute's rows; after an error they are kept for the next flush.

        If the connection is lost between a commit and its answer, the counts of that flush are added twice.
        """
        with self._lock:
            counts, self._counts = self._counts, _no_counts()
        if not counts:
            return
        rows = [(*label, *one.values()) for label, one in counts.items()]
        try:
            db.fetch(_ADD, [list(column) for column in zip(*rows, strict=True)])
        except Exception:
            with self._lock:
                for label, one in counts.items():
                    self._add(label, one)
            raise
        for label, one in counts.items():
            self._flushed[label] += one["n"]

    def _add(self, label: Label, counts: Mapping[str, float]) -> None:
        mine = self._counts[label]
        for column, amount in counts.items():
            mine[column] += amount


def _is_awaited(flushed: float, more: float) -> bool:
    return flushed == 0 or flushed < MEASURED <= flushed + more


def _no_counts() -> dict[Label, dict[str, float]]:
    return defaultdict(lambda: dict.fromkeys(COUNTS, 0.0))
