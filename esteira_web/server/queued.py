"""Count the jobs in each queue, each part within a time limit of its own.

Waiting jobs are counted up to 10,000 a queue. The view esteira_backlog names their lists (queue, priority, type): each
is one range of the index from which due rows are published, in which due jobs come first.

While a transaction holds an old snapshot, these indexes keep the entries of all jobs that ran since, so reading them
takes longer and longer. A part that takes too long is left out, and is not measured again for a while, so that the
other numbers, and the alerts on them, stay available.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from esteira.db import Db, Row
from esteira.db.walk import within
from esteira.search.open_rows import LISTS, RANGE

#: The largest number of waiting jobs that is counted in one queue; if there are more, this number is reported.
MOST = 10_000
#: The parts with a time limit each: all parts together, and the other queries, fit into the one second of a page.
PARTS = ("waiting", "hinted", "running", "files")
LIMIT_S = 0.2
#: The pause after a part took too long: it begins with the first value, and doubles up to the second.
AGAIN_S, LONGEST_S = 2.0, 30.0

_UNPUBLISHED = f"""
WITH {LISTS},
queues AS (SELECT DISTINCT queue FROM lists)
SELECT q.queue,
  (SELECT count(*) FROM (
     SELECT 1 FROM lists k CROSS JOIN LATERAL (
       SELECT 1 FROM esteira_job j WHERE {RANGE} AND j.run_at <= (SELECT now FROM clock)
       LIMIT {MOST}) AS due
     WHERE k.queue = q.queue LIMIT {MOST}) AS all_due),
  (SELECT count(*) FROM (
     SELECT 1 FROM lists k CROSS JOIN LATERAL (
       SELECT 1 FROM esteira_job j WHERE {RANGE} AND j.run_at > (SELECT now FROM clock)
       LIMIT {MOST}) AS later
     WHERE k.queue = q.queue LIMIT {MOST}) AS all_later),
  (SELECT extract(epoch FROM (SELECT now FROM clock) - min(first.run_at))::float8 FROM lists k CROSS JOIN LATERAL (
     SELECT j.run_at FROM esteira_job j WHERE {RANGE}
     ORDER BY j.run_at, j.id LIMIT 1) AS first
   WHERE k.queue = q.queue)
FROM queues q"""

_PUBLISHED = f"""
SELECT f.queue, count(*), extract(epoch FROM clock_timestamp() - min(f.run_at))::float8 FROM (
  SELECT j.queue, j.run_at FROM esteira_job j WHERE j.state = 'queued' AND j.published_at IS NOT NULL
  ORDER BY j.published_at, j.id LIMIT {MOST}) AS f
GROUP BY f.queue"""

_RUNNING = f"""
SELECT r.queue, count(*) FROM (
  SELECT j.queue FROM esteira_job j WHERE j.state = 'running' ORDER BY j.claimed_at LIMIT {MOST}) AS r
GROUP BY r.queue"""


class Limited:
    """Runs the queries for parts of a page, each within its time limit."""

    def __init__(self, core: Db) -> None:
        self._core = core
        #: For each part that took too long: the end of its pause, and the length of the pause.
        self._left_out: dict[str, tuple[float, float]] = {}

    @property
    def left_out(self) -> set[str]:
        """The parts that took too long at their last measurement."""
        return set(self._left_out)

    def fetch(self, part: str, sql: str, **planner: str) -> list[Row] | None:
        """Return the rows of a part; None if it takes too long, or did a short time ago. `planner` sets `enable_*`."""
        until, pause_s = self._left_out.get(part, (float("-inf"), AGAIN_S / 2))
        if time.monotonic() < until:
            return None

        def ask() -> list[Row]:
            for name, value in planner.items():
                self._core.fetch("SELECT set_config(%s, %s, true)", [f"enable_{name}", value])
            return self._core.fetch(sql)

        rows = within(self._core, LIMIT_S, ask)
        if rows is None:
            pause_s = min(LONGEST_S, pause_s * 2)
            self._left_out[part] = time.monotonic() + pause_s, pause_s
        else:
            self._left_out.pop(part, None)
        return rows


@dataclass(frozen=True, kw_only=True)
class InQueues:
    """The numbers of jobs in each queue now; a missing queue has no jobs, and None means not measured."""

    waiting: Mapping[str, int] | None
    later: Mapping[str, int] | None
    oldest_s: Mapping[str, float] | None
    running: Mapping[str, int] | None

    def names(self) -> set[str]:
        return {queue for part in (self.waiting, self.later, self.running) for queue in part or ()}


class Queued:
    """Counts the jobs in the queues."""

    def __init__(self, limited: Limited) -> None:
        self._limited = limited

    def count(self) -> InQueues:
        # A bitmap scan reads a whole index range before it returns a row, and a range may have millions of rows.
        unpublished, published, running = (
            self._limited.fetch(part, sql, bitmapscan="off")
            for part, sql in (("waiting", _UNPUBLISHED), ("hinted", _PUBLISHED), ("running", _RUNNING))
        )
        waiting: dict[str, int] = defaultdict(int)
        oldest_s: dict[str, float] = defaultdict(float)
        for queue, due, _, first_s in unpublished or ():
            waiting[queue], oldest_s[queue] = due, max(0.0, first_s)
        for queue, due, first_s in published or ():
            waiting[queue] = min(MOST, waiting[queue] + due)
            oldest_s[queue] = max(oldest_s[queue], first_s)
        # One of the two counts alone would look like the total.
        whole = unpublished is not None and published is not None
        return InQueues(
            waiting=waiting if whole else None,
            later=None if unpublished is None else {queue: later for queue, _, later, _ in unpublished},
            oldest_s=oldest_s if whole else None,
            running=None if running is None else dict(running),
        )
