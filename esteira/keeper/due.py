"""Choose where publishing continues in a queue: at the start of its index, unless that is full of dead entries.

Usually one statement reads the due jobs of a queue in the order in which they became due. While a transaction keeps a
snapshot open for hours, that statement would also read the dead entries of all jobs that were published since.
Therefore the moment up to which each list was published is stored as its *floor*. If a queue's statement is slow, the
queue is *crowded*, and its jobs are published from the floors on.

Jobs that return below a floor (handed back, unpublished, committed late) are found by a walk, and by the statement
without floors, which is tried again for a small share of the time. As soon as that statement is quick, the queue is no
longer crowded. A keeper that starts with a crowded queue knows no floors. It walks first, to find the oldest due job of
each list.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from esteira.db import Db
from esteira.db.walk import RESTS, SLICE_LIMIT_S, Walk, within
from esteira.job_types.request import PRIORITIES
from esteira.keeper.slices import Slice
from esteira.record import waiting
from esteira.record.insert import SLICE
from esteira.record.publish import Published
from esteira.record.waiting import Picked

#: Reading takes less time than this where the index has few dead entries, and this much more for each marked job. A
#: million dead entries take longer, also those that PostgreSQL has found to be dead before.
SLOW_S, MARKING_S = 0.01, 0.0002
#: A list with no more jobs to publish may still get jobs that became due this long ago, because their transactions
#: commit late. Where many jobs ran in that time the margin is smaller.
MARGIN_S, LEAST_MARGIN_S = 60.0, 1.0
#: The statement without floors is tried again after at least this time.
TRY_EVERY_S = 5.0


class Due:
    """The due jobs of one queue that wait to be published."""

    def __init__(self, queue: str) -> None:
        self._queue, self._slice = queue, Slice(SLICE)
        self._walk, self._look = Walk(self._below), Walk(self._oldest)
        self.start_over()

    def start_over(self) -> None:
        """Forget the floors and walks: the server or its clock may be another one."""
        self.crowded = False
        self._types: set[str] = set()
        self._floors: dict[int, float] = {}
        self._margin_s, self._try_at = MARGIN_S, float("-inf")
        self._begin_walks()

    @property
    def walked(self) -> bool:
        """Return whether everything below the floors was examined once."""
        return self._walk.been_through

    def publish(
        self, db: Db, now: float, *, types: Sequence[str], priorities: Sequence[int], limit: int
    ) -> tuple[list[Published], set[int]]:
        """Mark the next due jobs of some lists published; return them, and the lists that have no more.

        `now` is the database's clock before that.
        """
        self._know(types)
        asked = {"queue": self._queue, "types": types, "priorities": priorities}
        if self.crowded:
            return self._publish_crowded(db, now, asked, limit)
        began = time.monotonic()
        try:
            with self._slice.taken() as most:
                picked = waiting.publish_due(db, limit=min(limit, most), **asked)
        except psycopg.errors.QueryCanceled:
            if self._reads_slowly(db, asked):
                self._crowd()
                return self._publish_crowded(db, now, asked, limit)
            return [], set()
        if time.monotonic() - began > SLOW_S + len(picked.published) * MARKING_S and self._reads_slowly(
            db, asked
        ):
            self._crowd()
        return picked.published, self._published_up_to(now, priorities, picked)

    def behind(self, db: Db, *, types: Sequence[str], priorities: Sequence[int]) -> list[int]:
        """Return the priorities of the lists that have due jobs waiting to be published."""
        asked = {"queue": self._queue, "types": types}
        known = [n for n in priorities if n in self._floors] if self.crowded else list(priorities)
        floors = [self._floors[n] for n in known] if self.crowded else None
        began = time.monotonic()
        try:
            behind = waiting.behind(db, **asked, priorities=known, floors=floors) if known else []
        except psycopg.errors.QueryCanceled:
            self._crowd()
            return []
        slow = time.monotonic() - began > SLOW_S
        if slow and not self.crowded and self._reads_slowly(db, {**asked, "priorities": list(priorities)}):
            self._crowd()
        return behind

    def _reads_slowly(self, db: Db, asked: dict[str, Any]) -> bool:
        """Return whether the read was slow, and not the marking: a slow disk writes slowly without any dead entries."""
        began = time.monotonic()
        found = within(db, SLICE_LIMIT_S, lambda: waiting.due(db, limit=1, **asked))
        return found is None or time.monotonic() - began > SLOW_S

    def _crowd(self) -> None:
        if not self.crowded:
            self.crowded, self._try_at = True, time.monotonic() + TRY_EVERY_S
            self._begin_walks()

    def _begin_walks(self) -> None:
        self._walk.start_over()
        self._look.start_over()
        #: When the oldest due job of each list became due, as far as the walk has come.
        self._seen: dict[int, float] = {}

    def _know(self, types: Sequence[str]) -> None:
        """Forget the floors if a worker with other job types has started: those jobs may have waited for long."""
        if not set(types) <= self._types:
            self._floors.clear()
            self._begin_walks()
        self._types = set(types)

    # --- a crowded queue ----------------------------------------------------------------------------------------------

    def _publish_crowded(
        self, db: Db, now: float, asked: dict[str, Any], limit: int
    ) -> tuple[list[Published], set[int]]:
        limit = min(limit, self._slice.rows)
        if time.monotonic() >= self._try_at and (first := self._try(db, asked, limit)):
            return self._publish_these(db, first), set(asked["priorities"]) if len(first) < limit else set()
        self._asked, self._limit, self._found = asked, limit, list[UUID]()
        if not self._floors.keys() >= set(asked["priorities"]) and not self._look_on(db, now):
            return [], set()
        floors = [self._floors[n] for n in asked["priorities"]]
        self._walk.step(db, min(floors), end=max(floors))
        published = self._publish_these(db, self._found)
        if len(published) == limit:
            return published, set()
        more, ended = self._from_floors(db, now, asked, limit - len(published))
        return published + more, ended

    def _publish_these(self, db: Db, ids: Sequence[UUID]) -> list[Published]:
        if not ids:
            return []  # an empty statement would not show how fast the server writes
        with self._slice.taken():
            return waiting.publish_these(db, ids)

    def _from_floors(
        self, db: Db, now: float, asked: dict[str, Any], limit: int
    ) -> tuple[list[Published], set[int]]:
        known, began = asked["priorities"], time.monotonic()
        try:
            with self._slice.taken():
                picked = waiting.publish_due(
                    db, limit=limit, floors=[self._floors[n] for n in known], **asked
                )
        except psycopg.errors.QueryCanceled:
            # Many jobs have run since those moments too; the walk finds the jobs that wait there.
            self._margin_s = max(LEAST_MARGIN_S, self._margin_s / 4)
            self._floors.update(dict.fromkeys(known, now - self._margin_s))
            self._walk.start_over()
            return [], set()
        ended = self._published_up_to(now, known, picked)
        slow = time.monotonic() - began > SLOW_S + len(picked.published) * MARKING_S
        self._margin_s = (
            max(LEAST_MARGIN_S, self._margin_s / 4) if slow else min(MARGIN_S, self._margin_s * 1.1)
        )
        return picked.published, ended

    def _published_up_to(self, now: float, priorities: Sequence[int], picked: Picked) -> set[int]:
        """Store where each list continues: after the last job of a cut slice, otherwise a moment ago.

        A job whose row another transaction locks may stay unpublished, so no floor passes it. Return the lists that
        were read to their end.
        """
        cut, last = picked.cut or (math.inf, math.inf)
        for n in priorities:
            if n <= cut:
                floor = now - self._margin_s if n < cut else min(now, last)
                self._floors[n] = min(floor, picked.held.get(n, math.inf))
        return {n for n in priorities if n < cut}

    def _try(self, db: Db, asked: dict[str, Any], limit: int) -> list[UUID]:
        """Read without floors within a short limit; if that is quick, the queue is no longer crowded."""
        began = time.monotonic()
        found = within(db, SLICE_LIMIT_S, lambda: waiting.due(db, limit=limit, **asked))
        took = time.monotonic() - began
        self._try_at = time.monotonic() + max(TRY_EVERY_S, took * RESTS)
        if found is not None and took < SLOW_S:
            self.crowded = False
        return found or []

    def _below(self, db: Db, after: float, until: float) -> bool:
        """Find due jobs below the floors; return whether there may be more."""
        floors = [self._floors[n] for n in self._asked["priorities"]]
        between = {"floors": [after] * len(floors), "ceilings": [min(until, floor) for floor in floors]}
        self._found += waiting.due(db, limit=self._limit - len(self._found), **self._asked, **between)
        return len(self._found) >= self._limit

    def _look_on(self, db: Db, now: float) -> bool:
        """Find the oldest due job of each list; return whether the walk is complete, so that the floors are known."""
        self._look.step(db, now)
        if self._look.been_through:
            for n in PRIORITIES.values():
                self._floors.setdefault(n, min(now - self._margin_s, self._seen.get(n, math.inf)))
        return self._look.been_through

    def _oldest(self, db: Db, after: float, until: float) -> bool:
        lists = list(PRIORITIES.values())
        between = {"floors": [after] * len(lists), "ceilings": [until] * len(lists)}
        asked = {**self._asked, "priorities": lists}
        for n, due_at in waiting.oldest(db, **asked, **between).items():
            self._seen[n] = min(due_at, self._seen.get(n, math.inf))
        return False
