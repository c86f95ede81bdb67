"""Read an index of moments at a bounded cost, for any number of dead entries.

An index keeps the entry of a deleted or changed row until VACUUM removes it, and VACUUM may not do that while a
transaction holds an old snapshot (as a backup of hours does). A statement that reads such an index from its beginning
pays for every entry that was ever in it. So its ranges are read instead: `Trail` reads each stretch of time once, soon
after it has passed; `Walk` goes through the whole index, again and again, in slices that take a few milliseconds and a
small share of the time. A trail is quick and may miss rows that a walk then finds: a row whose commit came late, that
was locked, or that was written with a clock that stepped back.

A `Survey` combines both; while its walk is one quick slice, it uses only the walk. Moments are seconds since 1970 by
the database's clock. All state is kept in memory: if a process dies, only reads are lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from esteira.db import Db

T = TypeVar("T")

#: Reads the rows after one moment up to another one; returns whether it left some of them for another visit.
Visit = Callable[[Db, float, float], bool]
#: The same for a walk. A visit of more than one statement should end after `SLOW_S`: it then returns the moment after
#: which it has read everything, which is before the later of the two, and the walk continues from there.
WalkVisit = Callable[[Db, float, float], bool | float]

#: The limit of a slice's statements. A slice that exceeds it is given up and tried again narrower. On a server on which
#: that does not help after some tries, the limit is doubled, up to the second number.
SLICE_LIMIT_S, LONGEST_LIMIT_S, GIVEN_UP_OFTEN = 0.1, 2.0, 4
#: A slice that took less is followed by a wider one, one that took more by a narrower one.
QUICK_S, SLOW_S = 0.003, 0.015
#: The first walk may take this long per turn until it is complete, so that a new keeper soon has read everything.
FIRST_BOX_S = 0.25
#: Later a walk rests this many times as long as its last step took, unless one step was a whole walk and quick.
RESTS = 19
#: The first width of a walk that cannot read everything at once, and the width after which it reads the rest at once.
MINUTE_S, AGES_S = 60.0, 90 * 86400.0
NARROWER, WIDER = 4.0, 4.0
#: Older rows are read at once: where no slice is quick, slices would reach years that PostgreSQL does not support.
FIRST_MOMENT = 0.0
#: No slice is narrower; each one raises this limit a little, because a walk must end even where nothing is quick.
NARROWEST_S, GROWS = 0.25, 1.02
#: If a trail is this far behind, it leaves the distance to the walk.
LOST_TRAIL_S = 60.0
#: The late trail reads everything again after this time: by then a late commit is visible, and locks are released.
LATE_S, LATE_EVERY_S = 15.0, 2.5
#: A clock that fell behind the process's own by this much between two looks was set back.
PUT_BACK_S = 1.0
#: The maximum age of a moment that several parts of one turn share.
RECENT_S = 0.1


class Walk:
    """Visits all of an index in slices, the newest first, and begins again when it is complete."""

    def __init__(self, visit: WalkVisit, *, box_s: float = FIRST_BOX_S) -> None:
        self._visit, self._box_s = visit, box_s
        self.start_over()

    def start_over(self) -> None:
        """Begin a first walk, because rows may be anywhere."""
        self._at: float | None = None
        #: Whether the next slice begins a walk; `been_through`: whether one was completed since the start.
        self.between = True
        self._width = self._opening = math.inf
        self._given_up, self._narrowest = 0, NARROWEST_S
        self.been_through = False
        #: Whether the last step was a whole walk, so quick that the next one needs no limit: the growth of an index
        #: between two steps costs little.
        self.at_once = False
        self._rests_until = float("-inf")

    def step(self, db: Db, newest: float, *, end: float | None = None) -> bool:
        """Visit a slice, or more while they are quick; return whether the next should follow at once.

        The first slice of a walk reads from before the moment `newest` to `end`, which is `newest` if not given.
        """
        began = time.monotonic()
        if began < self._rests_until:
            return False
        opened = self.between
        while True:
            left = self._slice(db, newest, newest if end is None else end)
            took = time.monotonic() - began
            if left or self.between or took > (SLOW_S if self.been_through else self._box_s):
                break
        self.at_once = self.been_through and opened and self.between and took <= SLOW_S
        # A keeper rests as long between its turns as after a whole walk that was quick.
        if self.been_through and not self.at_once:
            self._rests_until = time.monotonic() + took * RESTS
        return left

    def _slice(self, db: Db, newest: float, end: float) -> bool:
        opens, self.between = self._at is None, False
        until = end if self._at is None else self._at
        after = min(newest, until) - self._width
        if after < FIRST_MOMENT:
            after = -math.inf

        def visit() -> tuple[bool | float, float]:
            began = time.monotonic()
            left = self._visit(db, after, until)
            return left, time.monotonic() - began

        limit_s, self.at_once = math.inf if self.at_once else self._limit_s(), False
        left, took = within(db, limit_s, visit) or (None, math.inf)
        if left is not None:
            self._given_up, self._narrowest = 0, self._narrowest * GROWS
        else:
            self._given_up += 1
            if self._limit_s() == LONGEST_LIMIT_S:
                self._narrowest = max(NARROWEST_S, self._narrowest / NARROWER)
        self._adapt(took)
        if opens:
            self._opening = self._width
        if isinstance(left, float):
            after = left
        elif left is None or left:
            return bool(left)
        self._at = after
        if after == -math.inf:
            self._at, self._width, self._narrowest = None, self._opening, NARROWEST_S
            self.between = self.been_through = True
        return False

    def _limit_s(self) -> float:
        doubled = max(0, self._given_up - GIVEN_UP_OFTEN)
        return float(min(LONGEST_LIMIT_S, SLICE_LIMIT_S * 2 ** min(doubled, 10)))

    def _adapt(self, took: float) -> None:
        if took > SLOW_S:
            narrower = MINUTE_S if self._width == math.inf else self._width / NARROWER
            self._width = max(self._narrowest, narrower)
        elif took < QUICK_S:
            self._width = self._width * WIDER if self._width < AGES_S else math.inf


class Trail:
    """Visits each stretch of time once, `delay_s` after it has passed; stretches are at least `every_s` long."""

    def __init__(self, visit: Visit, *, delay_s: float, every_s: float = 0.0) -> None:
        self._visit, self._delay_s, self._every_s = visit, delay_s, every_s
        self._floor: float | None = None

    def start_over(self) -> None:
        """Reset the trail; everything before its next step is left to a walk."""
        self._floor = None

    def skip(self, clock: float) -> None:
        """Continue from a moment, because a walk reads everything until then."""
        self._floor = clock - self._delay_s

    def step(self, db: Db, clock: float) -> bool:
        """Visit the time since the last step; return False if a walk must read a stretch that was left out."""
        until = clock - self._delay_s
        floor = self._floor
        if floor is None or until - floor > LOST_TRAIL_S:
            self._floor = until
            return floor is None
        if until - floor < self._every_s:
            return True
        try:
            left = self._visit(db, floor, until)
        except psycopg.errors.QueryCanceled:
            self._floor = until
            return False
        self._floor = floor if left else until
        return True


# A shorter limit of the connection itself stays; zero means none.
_SHORTER = """SELECT set_config('statement_timeout', least(%s::float8, nullif(
  extract(epoch FROM current_setting('statement_timeout')::interval), 0)::float8)::text || 's', true)"""


def within(db: Db, limit_s: float, work: Callable[[], T]) -> T | None:
    """Run some work in a transaction whose statements end after `limit_s`; return None, and roll back, if one did.

    An infinite limit means the connection's own; there is no transaction then.
    """
    if limit_s == math.inf:
        try:
            return work()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
            return None
    with db.transaction():
        db.fetch(_SHORTER, [limit_s])
        # With a rollback here, the timeout does not count as an error of the connection, which would be closed for it.
        try:
            return work()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            raise psycopg.Rollback from error
    return None


class Survey:
    """A trail, a late trail and a walk over one index: new rows soon, all others in time."""

    def __init__(self, visit: Visit, *, delay_s: float, walk: WalkVisit | None = None) -> None:
        self._delay_s = delay_s
        self._trails = [
            Trail(visit, delay_s=delay_s),
            Trail(visit, delay_s=LATE_S, every_s=LATE_EVERY_S),
        ]
        self.walk = Walk(walk or visit)

    def start_over(self) -> None:
        """Read everything again: it may be another server, or another clock."""
        self.walk.start_over()
        for trail in self._trails:
            trail.start_over()

    def step(self, db: Db, now: float) -> None:
        """Visit what is due at the moment `now` of the database's clock."""
        for trail in self._trails:
            if self.walk.at_once:
                trail.skip(now)
            elif not trail.step(db, now):
                self.walk.start_over()
        # After the clock was set back, some claims have a moment in its future.
        self.walk.step(db, now - self._delay_s, end=math.inf)


class Clock:
    """The database's clock, as one part of a process follows it; `read` returns the moment."""

    def __init__(self, read: Callable[[Db], float] | None = None) -> None:
        self._read = read or clock
        self._seen = self._at = float("-inf")

    def look(self, db: Db) -> tuple[float, bool]:
        """Return the moment, and whether the clock was set back since the last look.

        A slow answer may look the same; reading everything again is then harmless.
        """
        now = self._read(db)
        passed, at = now - self._seen, time.monotonic()
        went_back = passed < 0 or passed < at - self._at - PUT_BACK_S
        self._seen, self._at = now, at
        return now, went_back


class Recent:
    """The database's clock for the parts of one turn: a moment may be a little old, but never from the turn before."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Read the clock again next time, because it may have been set back since the last turn."""
        self._moment, self._at = 0.0, float("-inf")

    def __call__(self, db: Db) -> float:
        asked = time.monotonic()
        if asked - self._at > RECENT_S:
            self._moment, self._at = clock(db), asked
        return self._moment


def clock(db: Db) -> float:
    """Return the database's clock."""
    return float(db.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])
