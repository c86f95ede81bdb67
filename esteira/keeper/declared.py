"""Write the schedules declared in code into the database: the newest release that lives does it, and nobody else.

`migrate` writes them, and so does a keeper that finds others than its own: after a roll-back, and on the way forward
again, they put themselves right (see `esteira.releases`). The nominal ticks of a schedule begin when it is first
stored, so a restart of any process changes nothing. A changed cadence begins anew. A schedule whose code is gone is
marked so, and rests; its history stays. An operator's switch (`enabled`) is never touched.
"""

from __future__ import annotations

import logging
from typing import Any

from esteira import releases
from esteira.db import Db
from esteira.job_types.registry import JobType

log = logging.getLogger("esteira.keeper")

#: Ticks of an absence from the code that was no longer than this, as of a release's roll-back and way forward, are
#: made up as missed ones are; those of a longer one are nobody's wish.
GONE_BRIEFLY_S = 600.0
#: A keeper comes again soon, and other steps of its turn wait meanwhile.
LOCK_WAIT = "200ms"
NAME_MAX = 120
#: What this process found last, and said; a roll-out lasts for minutes, and the keeper looks every two seconds.
_newer_runs = False


def keep_declared(db: Db) -> bool:
    """Say that this release lives; write what it declares if it is the newest and finds something else."""
    global _newer_runs
    releases.say_alive(db)
    if _stored(db) == [releases.definition(job_type) for job_type in releases.declared()]:
        _newer_runs = False
        return False
    return write_declared(db, lock_wait=LOCK_WAIT)


def write_declared(db: Db, *, lock_wait: str | None = None) -> bool:
    """Make the table agree with the declarations, unless a newer release lives; return whether it was ours to do.

    With `lock_wait`, a schedule that somebody holds for longer than that raises LockNotAvailable.
    """
    global _newer_runs
    with db.transaction():
        if lock_wait:
            db.fetch("SELECT set_config('lock_timeout', %s, true)", [lock_wait])
        releases.say_alive(db)
        before, _newer_runs = _newer_runs, not releases.is_newest(db)
        if _newer_runs:
            if not before:
                log.info("a newer release runs; the schedules that it declares stay as they are")
            return False
        declared = releases.declared()
        for job_type in declared:
            _write(db, job_type)
        gone = db.fetch(
            """UPDATE esteira_schedule SET origin = 'gone', gone_at = clock_timestamp()
               WHERE origin = 'code' AND name <> ALL(%s) RETURNING name""",
            [[job_type.name for job_type in declared]],
        )
    for (name,) in gone:
        log.warning("schedule %s is no longer declared in code; it rests", name)
    return True


def _stored(db: Db) -> list[tuple[Any, ...]]:
    rows = db.fetch(
        "SELECT name, cron, tz, every_s, overlap, missed, grace_s FROM esteira_schedule WHERE origin = 'code'"
    )
    return sorted(rows, key=lambda row: str(row[0]))


def _write(db: Db, job_type: JobType) -> None:
    name, cron, tz, every_s, overlap, missed, grace_s = releases.definition(job_type)
    _make_way(db, name)
    db.fetch(
        """
        INSERT INTO esteira_schedule AS s (name, type, params, cron, tz, every_s, overlap, missed, grace_s, enabled,
          origin, anchor_at, last_tick_at)
        VALUES (%(name)s, %(name)s, '{}', %(cron)s, %(tz)s, %(every)s, %(overlap)s, %(missed)s, %(grace)s, true, 'code',
          clock_timestamp(), clock_timestamp())
        ON CONFLICT (name) DO UPDATE SET type = excluded.type, cron = excluded.cron, tz = excluded.tz,
          every_s = excluded.every_s, overlap = excluded.overlap, missed = excluded.missed, grace_s = excluded.grace_s,
          origin = 'code', gone_at = NULL, error = '', error_at = NULL, failures = 0, retry_at = NULL,
          enabled = s.enabled OR {switched_off},
          anchor_at = CASE WHEN {changed} THEN clock_timestamp() ELSE s.anchor_at END,
          last_tick_at = CASE WHEN {changed} OR {long_gone} THEN clock_timestamp() ELSE s.last_tick_at END
        WHERE s.origin <> 'database'""".replace(
            "{changed}",
            "((s.cron, s.tz, s.every_s) IS DISTINCT FROM (excluded.cron, excluded.tz, excluded.every_s))",
        )
        .replace(
            "{long_gone}",
            """(s.origin = 'gone'
                AND coalesce(s.gone_at < clock_timestamp() - %(briefly)s * interval '1 second', true))""",
        )
        # Releases before this rule switched off what was gone, and left no time.
        .replace("{switched_off}", "(s.origin = 'gone' AND s.gone_at IS NULL)"),
        {
            "name": name,
            "cron": cron,
            "tz": tz,
            "every": every_s,
            "overlap": overlap,
            "missed": missed,
            "grace": grace_s,
            "briefly": GONE_BRIEFLY_S,
        },
    )


def _make_way(db: Db, name: str) -> None:
    """Give an operator's own schedule another name if it bears a declared one's: both go on."""
    if not db.fetch("SELECT 1 FROM esteira_schedule WHERE name = %s AND origin = 'database'", [name]):
        return
    taken = {row[0] for row in db.fetch("SELECT name FROM esteira_schedule")}
    other, number = f"{name[: NAME_MAX - 10]} (own)", 2
    while other in taken:
        other, number = f"{name[: NAME_MAX - 10]} (own {number})", number + 1
    db.fetch(
        "UPDATE esteira_schedule SET name = %s WHERE name = %s AND origin = 'database'",
        [other, name],
    )
    log.warning("the code declares a schedule %s; your own schedule of that name is now %s", name, other)
