"""The state of a task that has ended without a result: what its row shows, in Celery's words.

A process that is killed cannot store a result, nor can a task that was cancelled or expired before it started.
"""

from __future__ import annotations

from billiard.exceptions import TimeLimitExceeded
from celery import states
from celery.exceptions import NotRegistered, TaskRevokedError, WorkerLostError

from esteira.record.task_rows import Row
from esteira.states import State


def end_of(row: Row) -> tuple[str, Exception] | None:
    """Return Celery's state and error of a task that ended outside Celery's tracer; None for every other."""
    if row.settled:
        return None
    if row.state == State.EXPIRED:
        return states.REVOKED, TaskRevokedError("expired")
    if row.state == State.CANCELLED:
        return states.REVOKED, TaskRevokedError("terminated" if row.forced and row.started else "revoked")
    if row.state in (State.FAILED, State.DEAD):
        return states.FAILURE, _error(row)
    return None


def _error(row: Row) -> Exception:
    if row.kind == "timeout":
        seconds = row.timeout_s
        return TimeLimitExceeded(int(seconds) if seconds.is_integer() else seconds)
    if row.kind == "refused":
        return NotRegistered(row.type)
    return WorkerLostError(row.message)
