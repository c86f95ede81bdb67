"""Rescue jobs whose lease has ended, and expire queued jobs whose time to start has passed.

The cost of either must not grow with the number of jobs that ran since the last VACUUM. So a keeper remembers which
jobs run and when their leases end, and up to which moment it has read the claims and the expiries (`esteira.db.walk`).
Each keeper has its own memory, and a new one reads everything once, the latest first.
"""

from __future__ import annotations

import logging
from uuid import UUID

from esteira.db import Db
from esteira.db.walk import Clock, Survey, Walk
from esteira.keeper.hold import Calm
from esteira.keeper.slices import Slice
from esteira.record import rescue
from esteira.record.claim import EXPIRE_MOST, expire

log = logging.getLogger("esteira.keeper")

#: No lease is shorter, so claims of the last moment are not read yet, and most of those jobs will have ended by then.
FRESH_S = 1.0
#: At most this many jobs whose lease may have ended are examined in one turn.
LOOK_MOST = 5 * rescue.MOST


class Rescuer:
    """Watches running jobs, and rescues those whose lease no process extends, as far as leases can be judged."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._claims, self._clock = Survey(self._watch, delay_s=FRESH_S), clock or Clock()
        #: When to examine a running job again, in seconds since 1970 by the database's clock.
        self._watched: dict[UUID, float] = {}
        self._slice = Slice(rescue.MOST)

    @property
    def walk(self) -> Walk:
        """The walk over all claims, which shows its progress."""
        return self._claims.walk

    def start_over(self) -> None:
        """Forget everything read so far: another server, or another clock, has other rows."""
        self._watched.clear()
        self._claims.start_over()

    def step(self, db: Db, calm: Calm) -> int:
        """Find new claims, examine the jobs that are due; return how many jobs were rescued."""
        now, went_back = self._clock.look(db)
        if went_back:
            self.start_over()
        self._claims.step(db, now)
        return self._look(db, now, calm)

    def _watch(self, db: Db, after: float, until: float) -> bool:
        for job_id, look_at in rescue.claimed(db, after, until).items():
            self._watched.setdefault(job_id, look_at)
        return False

    def _look(self, db: Db, now: float, calm: Calm) -> int:
        due = [job_id for job_id, look_at in self._watched.items() if look_at <= now][:LOOK_MOST]
        rescued = 0
        while due:
            with self._slice.taken() as most:
                part, due = due[:most], due[most:]
                running = rescue.leases(db, part)
                # A row that another transaction locks, or that cannot be judged yet, stays watched until the next turn.
                if running:
                    judged = rescue.leases_ended(
                        db,
                        list(running),
                        at=calm.at,
                        longest_lease_s=calm.longest_lease_s,
                        slack_s=calm.slack_s,
                    )
                    rescued += len(judged)
            for job_id in part:
                del self._watched[job_id]
            self._watched.update(running)
        if rescued:
            log.warning("rescued %s jobs whose lease ended", rescued)
        return rescued


class Expirer:
    """Ends queued jobs whose time to start has passed, also those that return to the queue after it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._ended, self._slice = 0, Slice(EXPIRE_MOST)
        self._expiries, self._clock = Survey(self._expire, delay_s=0.0), clock or Clock()

    def start_over(self) -> None:
        """Read everything again."""
        self._expiries.start_over()

    def step(self, db: Db) -> int:
        """End the jobs that are due; return how many ended."""
        now, went_back = self._clock.look(db)
        if went_back:
            self.start_over()
        self._ended = 0
        self._expiries.step(db, now)
        return self._ended

    def _expire(self, db: Db, after: float, until: float) -> bool:
        with self._slice.taken() as most:
            ended = expire(db, after=after, until=until, limit=most)
        self._ended += ended
        return ended == most
