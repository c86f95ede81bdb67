"""Settle tasks that ended outside their attempt: dead, ended by force, cancelled, expired.

No tracer of Celery reports such an end. So the keeper records what follows from it, in one transaction with the mark
that it is settled: the result, the part of a chord, the rest of the chain, and errbacks that are tasks. Handlers and
errbacks that are functions are not called: the code of a task must not stop the keeper. If the process dies before the
commit, the next turn of any keeper does it again.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from celery import states
from celery.app.task import Context

from esteira.celery import current, message
from esteira.celery.current import Unit
from esteira.celery.derived import end_of
from esteira.celery.wake import wake
from esteira.db import BUSY, ConnectionLost, PrivateConnection
from esteira.record import task_rows, tasks
from esteira.runner.interrupt import Interrupt

log = logging.getLogger("esteira.celery")

#: How many tasks one turn settles, and for how long one that cannot be settled is skipped.
MOST, AGAIN_S = 50, 600.0
#: While jobs are published without a pause, turns follow each other at once; this step then rests.
PAUSE_S = 0.4


class Settler:
    """A step of the keeper."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._skipped: dict[UUID, float] = {}
        self._next = 0.0

    def step(self, db: Any) -> bool:
        """Settle some tasks; return whether there are more. A task that cannot be settled does not stop the others."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._skipped = {job_id: until for job_id, until in self._skipped.items() if until > now}
        found = task_rows.unsettled(db, limit=MOST, skipped=list(self._skipped))
        for job_id, task_id in found:
            try:
                self._settle(db, job_id, task_id)
            except Exception as error:  # any error of a message, a signal handler or a signature
                if isinstance(error, ConnectionLost) and not isinstance(error, BUSY):
                    raise
                log.exception("what follows from the end of task %s cannot be recorded", task_id)
                self._skipped[job_id] = now + AGAIN_S
        self._next = now if len(found) == MOST else now + PAUSE_S
        return len(found) == MOST

    def _settle(self, db: PrivateConnection, job_id: UUID, task_id: str) -> None:
        unit = Unit(
            task=None,
            task_id=task_id,
            retries=0,
            held=None,
            core=db,
            interrupt=Interrupt(),
            count=lambda *_: None,
        )
        unit.has_ended = unit.in_end = True
        with current.running(unit), unit.collects():
            with db.transaction():
                row = task_rows.row_of(db, job_id)
                end = end_of(row) if row else None
                stored = tasks.settle(db, job_id)
                if stored is None or end is None:
                    return
                self._follow(task_id, *end, message.read(stored))
                tasks.insert(db, unit.collected)
            log.info("task %s (%s) has ended as %s", row.type if row else "", task_id, end[0])
            wake([task_id])

    def _follow(self, task_id: str, state: str, error: Exception, received: message.Received) -> None:
        backend, request = self._app.backend, self._request(received)
        ignores = request.ignore_result
        if ignores is None:
            task = self._app._tasks.get(request.task)
            ignores = bool(task is not None and task.ignore_result)
        if state == states.REVOKED:
            backend.mark_as_revoked(task_id, str(error), request=request, store_result=not ignores)
        else:
            backend.mark_as_failure(task_id, error, request=request, store_result=not ignores)

    def _request(self, received: message.Received) -> Context:
        request = received.request(hostname="", redelivered=False)
        try:
            args, kwargs, embed = received.payload(self._app.conf.accept_content)
        except Exception as error:  # the message may have any content
            log.error("the message of task %s cannot be read: %s", request.get("id"), error)
            return Context({**request, "args": (), "kwargs": {}})
        return Context({**request, **(embed or {}), "args": args, "kwargs": kwargs})
