"""T8 and T15 as the keeper does them: rescue jobs whose lease ended, unless the database itself was away."""

from __future__ import annotations

import logging

from django.conf import settings

from esteira.db import Db
from esteira.record import rescue
from esteira.record.claim import expire

log = logging.getLogger("esteira.keeper")


def sweep(db: Db, *, was_away: bool) -> int:
    """Rescue and expire; return how many jobs moved.

    `was_away`: this keeper's own connection failed since last time.
    """
    moved = expire(db)
    if held(db, was_away=was_away):
        return moved
    rescued = rescue.leases_ended(db)
    if rescued:
        log.warning("rescued %s jobs whose lease ended", len(rescued))
    return moved + len(rescued)


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
