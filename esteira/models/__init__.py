"""The tables: jobs are the truth, the outbox and the lock; everything else hangs on them.

Constraints and partial indexes forbid the impossible: a running job without a lease, an ended one without an end, two
jobs for one tick. The partial indexes make the keeper's cost independent of the backlog; `lease_until` is in none of
them, so extending a lease touches no index. Nothing here changes a job's state: only `esteira.record` does.
"""

from __future__ import annotations

from esteira.models.clock import ClockTimestamp
from esteira.models.files import File, FileChunk, FileUse
from esteira.models.jobs import Job, JobEvent, JobLog
from esteira.models.running import Backup, IdempotencyKey, Keeper, Queue, Stat, StatTotal, Worker
from esteira.models.schedules import Release, Schedule, ScheduleSkip

__all__ = [
    "Backup",
    "ClockTimestamp",
    "File",
    "FileChunk",
    "FileUse",
    "IdempotencyKey",
    "Job",
    "JobEvent",
    "JobLog",
    "Keeper",
    "Queue",
    "Release",
    "Schedule",
    "ScheduleSkip",
    "Stat",
    "StatTotal",
    "Worker",
]
