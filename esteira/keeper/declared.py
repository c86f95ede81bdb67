"""Write the schedules declared in code into the database; only the newest running release does this.

`migrate` writes them, and so does a keeper that finds schedules other than its own. After a rollback, and after the
release is rolled out again, the table is therefore corrected automatically (see `esteira.releases`). A schedule's
nominal ticks start when it is first stored, so a restart of any process changes nothing. A changed cadence starts from
the beginning. A schedule that is no longer in the code is marked as gone and does not run; its history stays. An
operator's switch (`enabled`) is never changed.
"""

from __future__ import annotations

import logging
from typing import Any

from esteira import releases
from esteira.db import Db
from esteira.job_types.registry import JobType

log = logging.getLogger("esteira.keeper")

#: If a schedule was missing from the code for no longer than this, as during a rollback and the next rollout, its ticks
#: of that time are handled like missed ticks. After a longer absence they are dropped.
GONE_BRIEFLY_S = 600.0
#: A keeper retries soon, and the other steps of its turn wait meanwhile.
LOCK_WAIT = "200ms"
NAME_MAX = 120
#: Whether the last check found a newer release, which was logged then: a rollout lasts for minutes, and the keeper
#: checks every two seconds.
_newer_runs = False


def keep_declared(db: Db) -> bool:
    """Store that this release runs; write its schedules if it is the newest one and the table differs."""
    global _newer_runs
    releases.record_heartbeat(db)
    if _stored(db) == [releases.definition(job_type) for job_type in releases.declared()]:
        _newer_runs = False
        return False
    return write_declared(db, lock_wait=LOCK_WAIT)


def write_declared(db: Db, *, lock_wait: str | None = None) -> bool:
    """Make the table match the declarations, unless a newer release runs; return whether this release wrote it.

    With `lock_wait`, a schedule row that is locked for longer than that raises LockNotAvailable.
    """
    global _newer_runs
    with db.transaction():
        if lock_wait:
            db.fetch("SELECT set_config('lock_timeout', %s, true)", [lock_wait])
        releases.record_heartbeat(db)
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
        log.warning("schedule %s is no longer declared in code; it does not run any more", name)
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
        # Releases before this rule disabled schedules that were gone, and stored no time.
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
    """Rename an operator's own schedule that has the name of a declared one, so that both go on."""
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
    log.warning(
        "the code declares a schedule %s; the operator's schedule of that name was renamed to %s", name, other
    )
