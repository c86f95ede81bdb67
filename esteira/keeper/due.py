"""Where publishing in a queue goes on: from the beginning of its index, unless that is crowded with dead entries.

In ordinary times one statement reads the due jobs of a queue in the order in which they became due. Under somebody's
snapshot of hours it would read the dead entries of all that was published since as well. So the moment up to which each list
was published is remembered, its *floor*, and a queue whose statement took long is *crowded*: its jobs are published from the floors on.

What comes back below a floor (handed back, unpublished, committed late) is found by a walk, and by the statement
without floors, which is tried again for a small share of the time; once it is quick the queue is crowded no more. A
keeper that starts beside a crowded queue knows no floors. It walks first, to see where the oldest due job of each list
waits.
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
from esteira.record.insert import SLICE, Published
from esteira.record.waiting import Picked

#: Reading takes less where nothing is crowded; and so much more for each job that is marked.
SLOW_S, MARKING_S = 0.05, 0.0002
#: A list that has no more to publish may get jobs that became due so long ago, because their commits came late. Where many
#: ran in that time it is less.
MARGIN_S, LEAST_MARGIN_S = 60.0, 1.0
#: The statement without floors is tried again no sooner.
TRY_EVERY_S = 5.0


class Due:
    """The due jobs of one queue that wait to be published."""

    def __init__(self, queue: str) -> None:
        self._queue, self._slice = queue, Slice(SLICE)
        self._walk, self._look = Walk(self._below), Walk(self._oldest)
        self.start_over()

    def start_over(self) -> None:
        """Forget what was seen: it may be another server, or another clock."""
        self.crowded = False
        self._types: set[str] = set()
        self._floors: dict[int, float] = {}
        self._margin_s, self._try_at = MARGIN_S, float("-inf")
        self._begin_walks()

    @property
    def walked(self) -> bool:
        """Whether everything below the floors was looked at once."""
        return self._walk.been_through

    def publish(
        self, db: Db, now: float, *, types: Sequence[str], priorities: Sequence[int], limit: int
    ) -> tuple[list[Published], set[int]]:
        """Mark the next due jobs of some lists published; return them, and which of the lists have no more.

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
        """Return the priorities of those lists with due jobs that wait to be published."""
        asked = {"queue": self._queue, "types": types}
        known = [n for n in priorities if n in self._floors] if self.crowded else list(priorities)
        floors = [self._floors[n] for n in known] if self.crowded else None
        began = time.monotonic()
        try:
            behind = waiting.behind(db, **asked, priorities=known, floors=floors) if known else []
        except psycopg.errors.QueryCanceled:
            self._crowd()
            return []
        if time.monotonic() - began > SLOW_S:
            self._crowd()
        return behind

    def _reads_slowly(self, db: Db, asked: dict[str, Any]) -> bool:
        """Return whether reading is what took long, and not marking: a slow disk writes slowly without dead entries."""
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
        #: When the oldest due job of a list became due, as far as was looked.
        self._seen: dict[int, float] = {}

    def _know(self, types: Sequence[str]) -> None:
        """Forget the floors if a worker came that knows other types: theirs may have waited for long."""
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
            return []  # which shows nothing of how quickly the server writes
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
            # Much has run since those moments as well; what waits there is left to the walk.
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
        """Remember where each list goes on: after the last of a slice that was cut, else a moment ago.

        What somebody held goes on waiting if that one does not publish it, so no floor passes it. Return the lists that
        were read to their end.
        """
        cut, last = picked.cut or (math.inf, math.inf)
        for n in priorities:
            if n <= cut:
                floor = now - self._margin_s if n < cut else min(now, last)
                self._floors[n] = min(floor, picked.held.get(n, math.inf))
        return {n for n in priorities if n < cut}

    def _try(self, db: Db, asked: dict[str, Any], limit: int) -> list[UUID]:
        """Read without floors within a short limit; if that is quick, the queue is crowded no more."""
        began = time.monotonic()
        found = within(db, SLICE_LIMIT_S, lambda: waiting.due(db, limit=limit, **asked))
        took = time.monotonic() - began
        self._try_at = time.monotonic() + max(TRY_EVERY_S, took * RESTS)
        if found is not None and took < SLOW_S:
            self.crowded = False
        return found or []

    def _below(self, db: Db, after: float, until: float) -> bool:
        """Find what is due below the floors; return whether there may be more of it."""
        floors = [self._floors[n] for n in self._asked["priorities"]]
        between = {"floors": [after] * len(floors), "ceilings": [min(until, floor) for floor in floors]}
        self._found += waiting.due(db, limit=self._limit - len(self._found), **self._asked, **between)
        return len(self._found) >= self._limit

    def _look_on(self, db: Db, now: float) -> bool:
        """Look where the oldest due job of each list waits; return whether all was looked at, and floors are known."""
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
