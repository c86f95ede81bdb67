"""Determine the newest running release: only that one writes its declarations of schedules.

During a rollout, processes of two releases start side by side, in any order, and each of them migrates. A release is
identified by a fingerprint of its declarations, and numbered when it is first stored; each of its processes regularly
stores a heartbeat for it. So a process of an older release leaves newer declarations alone as long as one newer process
runs. After a rollback no newer process runs, and the older release writes its own declarations again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from esteira.db import Db
from esteira.job_types.registry import JobType, registry

#: The shortest time between two heartbeats of a release, and the time without one after which it does not run any more.
BEAT_S, SILENT_S = 4.0, 15.0


def declared() -> list[JobType]:
    """Return the job types with a schedule, in the order of their names."""
    return sorted(
        (job_type for job_type in registry.all() if job_type.schedule is not None),
        key=lambda job_type: job_type.name,
    )


def definition(job_type: JobType) -> tuple[Any, ...]:
    """Return what a declaration says about when a job type runs, as it is stored."""
    cadence = job_type.schedule
    assert cadence is not None
    return (
        job_type.name,
        cadence.cron,
        cadence.tz,
        float(cadence.every_s),
        job_type.overlap,
        job_type.missed,
        float(job_type.grace_s),
    )


def fingerprint() -> str:
    """Return a name for all that this process declares."""
    text = json.dumps([definition(job_type) for job_type in declared()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def record_heartbeat(db: Db) -> None:
    """Store a heartbeat of this release; many processes share the row, so a locked or recent one is skipped."""
    db.fetch(
        """
        WITH extended AS (
          UPDATE esteira_release SET last_seen = clock_timestamp() WHERE id = (
            SELECT id FROM esteira_release
            WHERE fingerprint = %(me)s
              AND last_seen NOT BETWEEN clock_timestamp() - %(beat)s * interval '1 second' AND clock_timestamp()
            FOR NO KEY UPDATE SKIP LOCKED))
        INSERT INTO esteira_release (fingerprint, first_seen, last_seen)
        SELECT %(me)s, clock_timestamp(), clock_timestamp()
        WHERE NOT EXISTS (SELECT 1 FROM esteira_release WHERE fingerprint = %(me)s) ON CONFLICT DO NOTHING""",
        {"me": fingerprint(), "beat": BEAT_S},
    )


def is_newest(db: Db) -> bool:
    """Return whether no process of a newer release runs; a moment in the future came from a clock that was ahead."""
    rows = db.fetch(
        """SELECT 1 FROM esteira_release mine JOIN esteira_release newer ON newer.id > mine.id
           WHERE mine.fingerprint = %(me)s
             AND newer.last_seen BETWEEN clock_timestamp() - %(silent)s * interval '1 second'
                                     AND clock_timestamp() + %(silent)s * interval '1 second' LIMIT 1""",
        {"me": fingerprint(), "silent": SILENT_S},
    )
    return not rows
