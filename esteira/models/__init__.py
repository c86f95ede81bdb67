"""The tables: the row of a job is the source of truth, the outbox entry and the lock; other tables refer to it.

Constraints and partial indexes exclude impossible rows: a running job without a lease, an ended one without an end, two
jobs for one tick. With partial indexes, the keeper's cost does not depend on the backlog; none contains `lease_until`,
so extending a lease changes no index. Nothing here changes a job's state: only `esteira.record` does.
"""

from __future__ import annotations

from esteira.models.clock import ClockTimestamp
from esteira.models.files import File, FileChunk, FileUse
from esteira.models.history import JobEvent, JobLog
from esteira.models.jobs import Job
from esteira.models.running import Backup, IdempotencyKey, Keeper, Queue, Stat, StatTotal, Worker
from esteira.models.schedules import Release, Schedule, ScheduleSkip
from esteira.models.tasks import TaskChord, TaskChordPart, TaskGroup, TaskResult, TaskRevoked

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
    "TaskChord",
    "TaskChordPart",
    "TaskGroup",
    "TaskResult",
    "TaskRevoked",
    "Worker",
]
