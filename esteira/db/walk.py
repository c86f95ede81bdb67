"""Reading an index of moments at a bounded cost, however many dead entries it holds.

An index keeps the entry of a row that has left it until VACUUM removes it, and while anybody holds an old snapshot (a
backup of hours does) VACUUM may not. Whoever reads such an index from its beginning pays for all that ever stood in it.
So its ranges are read instead: `Trail` reads each stretch of time once, soon after it has passed; `Walk` goes through
all of it, again and again, in slices that take a few milliseconds and a small share of the time. A trail is quick and
may miss what a walk then finds: a row whose commit came late, that was locked, or that a clock that stepped back wrote.

A `Survey` is both; while its walk is one quick slice, it is that alone. Moments are seconds since 1970 by the
database's clock. All of it lives in memory: a process that dies loses nothing but reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from esteira.db import Db

T = TypeVar("T")

#: Reads what lies after one moment, and not after another; returns whether it left some of that for another visit.
Visit = Callable[[Db, float, float], bool]
#: The same for a walk. A visit of more than one statement should end after `SLOW_S`: it then returns the moment after
#: which it has seen everything, which is before the later of the two, and the walk goes on from there.
WalkVisit = Callable[[Db, float, float], bool | float]

#: No statement of a slice takes longer; a slice with one that would is given up and tried again narrower. On a server
#: on which that does not help after a few times the limit doubles, up to the second one.
SLICE_LIMIT_S, LONGEST_LIMIT_S, GIVEN_UP_OFTEN = 0.1, 2.0, 4
#: A slice that took less is followed by a wider one, one that took more by a narrower one.
QUICK_S, SLOW_S = 0.003, 0.015
#: The first walk takes this long a turn until it is through, so that a new keeper soon knows everything.
FIRST_BOX_S = 0.25
#: Later a walk rests this many times as long as its last step took, unless one step was a whole walk and quick.
RESTS = 19
#: Where a walk begins that cannot read everything at once, and beyond what it reads all the rest at once, in seconds.
MINUTE_S, AGES_S = 60.0, 90 * 86400.0
NARROWER, WIDER = 4.0, 4.0
#: What is older is read at once: where no slice is quick, slices would come to years that PostgreSQL does not know.
FIRST_MOMENT = 0.0
#: No slice is narrower; each makes this a little wider, because where nothing is quick a walk must end as well.
NARROWEST_S, GROWS = 0.25, 1.02
#: A trail that is so far behind leaves the distance to the walk.
LOST_TRAIL_S = 60.0
#: The late trail reads everything once more after this time: by then its commit is visible, its lock released.
LATE_S, LATE_EVERY_S = 15.0, 2.5
#: A clock that fell behind ours by so much between two looks was put back.
PUT_BACK_S = 1.0
#: How old a moment may be that several parts of one turn share.
RECENT_S = 0.1


class Walk:
    """Visits all of an index in slices, the newest first, and begins again when it is through."""

    def __init__(self, visit: WalkVisit, *, box_s: float = FIRST_BOX_S) -> None:
        self._visit, self._box_s = visit, box_s
        self.start_over()

    def start_over(self) -> None:
        """Begin a first walk, because anything may be anywhere."""
        self._at: float | None = None
        #: Whether the next slice begins a walk; and whether one has been through since the start.
        self.between = True
        self._width = self._opening = math.inf
        self._given_up, self._narrowest = 0, NARROWEST_S
        self.been_through = False
        #: Whether the last step was a whole walk, in so short a time that the next one needs no limit: what an index
        #: gains between two steps costs little more than before.
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
        """Forget where the trail was; what lies before its next step is left to a walk."""
        self._floor = None

    def skip(self, clock: float) -> None:
        """Go on from a moment, because a walk sees what has passed until then."""
        self._floor = clock - self._delay_s

    def step(self, db: Db, clock: float) -> bool:
        """Visit what has passed since the last step; return False if a walk must look for what was left out."""
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


# A connection's own limit may be shorter, and stays then; zero is none.
_SHORTER = """SELECT set_config('statement_timeout', least(%s::float8, nullif(
  extract(epoch FROM current_setting('statement_timeout')::interval), 0)::float8)::text || 's', true)"""


def within(db: Db, limit_s: float, work: Callable[[], T]) -> T | None:
    """Do some work in a transaction whose statements end after `limit_s`; return None, and undo it, if one did.

    An infinite limit is the connection's own; there is no transaction then.
    """
    if limit_s == math.inf:
        try:
            return work()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
            return None
    with db.transaction():
        db.fetch(_SHORTER, [limit_s])
        # Rolled back here, the timeout is no error to the connection, which would be given up for it.
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
        # After a clock was put back, there are claims in its future.
        self.walk.step(db, now - self._delay_s, end=math.inf)


class Clock:
    """The database's clock, as one part of a process follows it; `read` asks for the moment."""

    def __init__(self, read: Callable[[Db], float] | None = None) -> None:
        self._read = read or clock
        self._seen = self._at = float("-inf")

    def look(self, db: Db) -> tuple[float, bool]:
        """Return the moment, and whether the clock was put back since the last look.

        A slow answer may look like that as well; whoever then reads everything again has lost nothing.
        """
        now = self._read(db)
        passed, at = now - self._seen, time.monotonic()
        went_back = passed < 0 or passed < at - self._at - PUT_BACK_S
        self._seen, self._at = now, at
        return now, went_back


class Recent:
    """The database's clock for the parts of one turn: a moment may be a little old, and never of the turn before."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Ask again next time, because a turn begins: since the last one the clock may have been put back."""
        self._moment, self._at = 0.0, float("-inf")

    def __call__(self, db: Db) -> float:
        asked = time.monotonic()
        if asked - self._at > RECENT_S:
            self._moment, self._at = clock(db), asked
        return self._moment


def clock(db: Db) -> float:
    """Return the database's clock."""
    return float(db.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])
