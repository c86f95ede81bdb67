"""Revoking tasks: `app.control.revoke`, `AsyncResult.revoke` and Flower end at the rows of the tasks.

A waiting task is cancelled at once. A running one goes on, as in Celery, unless it is terminated: then its worker kills
its process. An id under which nothing was sent yet is remembered: a task that is sent later never starts.
"""

from __future__ import annotations

from typing import Any

from celery.app import control
from celery.utils.functional import maybe_list

from esteira.celery.database import database
from esteira.record import operate, results
from esteira.record.task_rows import rows_of

BY = "revoke"
#: How long a revoked id is remembered, in seconds.
REMEMBERED_S = 7 * 86400.0


class Control(control.Control):
    """Celery's remote control; revoking works without it."""

    def revoke(
        self,
        task_id: Any,
        destination: Any = None,
        terminate: bool = False,
        signal: Any = None,
        **_: Any,
    ) -> None:
        ids = [str(one) for one in maybe_list(task_id) or []]
        with database() as db:
            rows = rows_of(db, ids)
            for row in rows.values():
                operate.cancel(db, row.id, by=BY, force=terminate)
            if unsent := [one for one in ids if one not in rows]:
                results.revoke(db, unsent, REMEMBERED_S)

    def terminate(self, task_id: Any, destination: Any = None, signal: Any = None, **_: Any) -> None:
        self.revoke(task_id, terminate=True)
