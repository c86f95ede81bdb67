"""Write the schedules declared in code into the database: `migrate` does it, and nobody else.

The nominal ticks of a schedule begin when it is first stored, so a restart of any process changes nothing. A changed
cadence begins anew; a schedule whose code is gone is switched off, and its history stays. An operator's switch
(`enabled`) is never touched, except by that.
"""

from __future__ import annotations

import logging

from esteira.db import Db
from esteira.registry import JobType, registry

log = logging.getLogger("esteira.schedules")


def write_declared(db: Db) -> None:
    """Make the table agree with the declarations."""
    declared = [kind for kind in registry.all() if kind.schedule is not None]
    with db.transaction():
        for kind in declared:
            _write(db, kind)
        gone = db.fetch(
            """UPDATE esteira_schedule SET enabled = false, origin = 'gone'
               WHERE origin = 'code' AND name <> ALL(%s) RETURNING name""",
            [[kind.name for kind in declared]],
        )
    for (name,) in gone:
        log.warning("schedule %s is no longer declared in code; it is switched off", name)


def _write(db: Db, kind: JobType) -> None:
    cadence = kind.schedule
    assert cadence is not None
    db.fetch(
        """
        INSERT INTO esteira_schedule (name, type, params, cron, tz, every_s, overlap, missed, grace_s, enabled, origin,
          anchor_at, last_tick_at)
        VALUES (%(name)s, %(type)s, '{}', %(cron)s, %(tz)s, %(every)s, %(overlap)s, %(missed)s, %(grace)s, true, 'code',
          clock_timestamp(), clock_timestamp())
        ON CONFLICT (name) DO UPDATE SET type = excluded.type, cron = excluded.cron, tz = excluded.tz,
          every_s = excluded.every_s, overlap = excluded.overlap, missed = excluded.missed, grace_s = excluded.grace_s,
          origin = 'code', enabled = esteira_schedule.enabled OR esteira_schedule.origin = 'gone',
          anchor_at = CASE WHEN {changed} THEN clock_timestamp() ELSE esteira_schedule.anchor_at END,
          last_tick_at = CASE WHEN {changed} THEN clock_timestamp() ELSE esteira_schedule.last_tick_at END
        WHERE esteira_schedule.origin <> 'database'""".replace(
            "{changed}",
            """((esteira_schedule.cron, esteira_schedule.tz, esteira_schedule.every_s)
                IS DISTINCT FROM (excluded.cron, excluded.tz, excluded.every_s) OR esteira_schedule.origin = 'gone')""",
        ),
        {
            "name": kind.name,
            "type": kind.name,
            "cron": cadence.cron,
            "tz": cadence.tz,
            "every": cadence.every_s,
            "overlap": kind.overlap,
            "missed": kind.missed,
            "grace": kind.grace_s,
        },
    )
