"""T8 and T15 as the keeper does them: rescue jobs whose lease ended, unless the database itself was away.

Neither may cost what ran since the last VACUUM, so a keeper remembers: what runs and when its lease ends, and up to
which moment it has read the claims and the expiries (`esteira.walk`). Each keeper has a memory of its own, and one that
starts reads everything once, the latest first.
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.conf import settings

from esteira.db import Db
from esteira.record import rescue
from esteira.record.claim import EXPIRE_MOST, expire
from esteira.walk import Clock, Survey, Walk

log = logging.getLogger("esteira.keeper")

#: No lease is shorter, so claims of the last moment are not looked for yet, and most of them will be over then.
FRESH_S = 1.0
#: So many of those whose lease may have ended are looked at in one turn.
LOOK_MOST = 5 * rescue.MOST


class Sweeper:
    """Rescues and expires for one keeper."""

    def __init__(self) -> None:
        self.rescuer, self.expirer = Rescuer(), Expirer()

    def sweep(self, db: Db, *, was_away: bool) -> int:
        """Rescue and expire; return how many jobs moved.

        `was_away`: this keeper's own connection failed since last time.
        """
        if was_away:  # it may be another server, with other rows
            self.rescuer.start_over()
            self.expirer.start_over()
        moved = self.expirer.step(db)
        if held(db, was_away=was_away):
            return moved
        return moved + self.rescuer.step(db)


class Rescuer:
    """T8: watches what runs, and rescues what nobody extends; step it only while no hold is in force."""

    def __init__(self) -> None:
        self._claims, self._clock = Survey(self._watch, delay_s=FRESH_S), Clock()
        #: When to look at a running job again, in seconds since 1970 by the database's clock.
        self._watched: dict[UUID, float] = {}

    @property
    def walk(self) -> Walk:
        """The walk over all claims, which says how far it is."""
        return self._claims.walk

    def start_over(self) -> None:
        """Forget what was seen: another server, or another clock, has other rows."""
        self._watched.clear()
        self._claims.start_over()

    def step(self, db: Db) -> int:
        """Find what was claimed, look at what is due; return how many jobs were rescued."""
        now, went_back = self._clock.look(db)
        if went_back:
            self.start_over()
        self._claims.step(db, now)
        return self._look(db, now)

    def _watch(self, db: Db, after: float, until: float) -> bool:
        for job_id, look_at in rescue.claimed(db, after, until).items():
            self._watched.setdefault(job_id, look_at)
        return False

    def _look(self, db: Db, now: float) -> int:
        due = [job_id for job_id, look_at in self._watched.items() if look_at <= now][:LOOK_MOST]
        rescued = 0
        for begin in range(0, len(due), rescue.MOST):
            part = due[begin : begin + rescue.MOST]
            running = rescue.leases(db, part)
            # A row that somebody has locked stays watched, and is looked at in the next turn.
            rescued += len(rescue.leases_ended(db, list(running))) if running else 0
            for job_id in part:
                del self._watched[job_id]
            self._watched.update(running)
        if rescued:
            log.warning("rescued %s jobs whose lease ended", rescued)
        return rescued


class Expirer:
    """T15: ends queued jobs whose time to start has passed, and those that return to the queue after it."""

    def __init__(self) -> None:
        self._ended = 0
        self._expiries, self._clock = Survey(self._expire, delay_s=0.0), Clock()

    def start_over(self) -> None:
        """Read everything again."""
        self._expiries.start_over()

    def step(self, db: Db) -> int:
        """End what is due; return how many jobs ended."""
        now, went_back = self._clock.look(db)
        if went_back:
            self.start_over()
        self._ended = 0
        self._expiries.step(db, now)
        return self._ended

    def _expire(self, db: Db, after: float, until: float) -> bool:
        ended = expire(db, after=after, until=until)
        self._ended += ended
        return ended == EXPIRE_MOST


def held(db: Db, *, was_away: bool) -> bool:
    """Note the sweep, and say whether rescues are on hold.

    While the database was away nobody could extend a lease: the living get lease/2 to do so. A hold in force is never
    extended, and a keeper whose own connection flaps does not start the next one before a whole lease has passed.
    """
    rows = db.fetch(
        """
        UPDATE esteira_keeper k SET
          hold_until = CASE
            WHEN k.hold_until > clock_timestamp() THEN k.hold_until
            WHEN k.database_started_at <> pg_postmaster_start_time()
              OR (%(away)s AND coalesce(k.hold_until < clock_timestamp() - %(lease)s * interval '1 second', true))
            THEN clock_timestamp() + %(lease)s / 2 * interval '1 second'
            ELSE k.hold_until END,
          database_started_at = pg_postmaster_start_time(), last_sweep = clock_timestamp()
        WHERE k.id = 1 RETURNING coalesce(k.hold_until > clock_timestamp(), false)""",
        {"away": was_away, "lease": settings.LEASE_SECONDS},
    )
    return bool(rows and rows[0][0])
