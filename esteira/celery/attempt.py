"""Run one attempt of a task: Celery's own tracer runs it, so its signals, handlers, retries and limits are Celery's.

Touched are only the places where Celery would send or store something: see `current`, `send` and `results`. A time
limit is raised inside `run` only, never while the end of the task is recorded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from celery import signals, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.nodenames import gethostname

from esteira.celery import current, ending, message
from esteira.celery.current import Unit
from esteira.celery.message import Received
from esteira.db import sessions
from esteira.job_types.registry import registry
from esteira.runner.calling import Refused
from esteira.runner.held import Ending, Held
from esteira.runner.interrupt import Interrupt
from esteira.runner.pool_process import guarded
from esteira.runner.runner import Runner

log = logging.getLogger("esteira.celery")


class TaskRunner:
    """Runs the attempts of tasks in one pool process."""

    def __init__(self, app: Any, runner: Runner) -> None:
        self._app, self._runner, self._hostname = app, runner, gethostname()
        #: What the tracer returned for the last attempt, for Celery's parent process; None if nothing ran.
        self.last: Any = None

    def __call__(self, held: Held, interrupt: Interrupt) -> Ending | None:
        """Run an attempt; its end is recorded when this returns None."""
        task = self._app._tasks.get(held.job.type)
        if task is None or held.job.type in registry.names():
            raise Refused(f"this worker knows no task {held.job.type}")
        assert held.job.message is not None, "the job of an attempt here is a task"
        received = message.read(held.job.message)
        unit = Unit(
            task=task,
            task_id=str(held.job.task_id),
            retries=received.headers.get("retries") or 0,
            held=held,
            core=self._runner.core,
            interrupt=interrupt,
            count=self._runner.completer.count,
        )
        late = _limit(held, task, received)
        with current.running(unit):
            self._run(unit, received)
        if late:
            sessions.close()  # the limit may have been raised in the middle of a statement
        return unit.outcome

    def _run(self, unit: Unit, received: Received) -> None:
        job, task = unit.held.job, unit.task
        # Celery's retries are attempts of their own; any further attempt begins after an interrupted one.
        request = received.request(hostname=self._hostname, redelivered=job.attempt > job.failures + 1)
        try:
            args, kwargs, embed = received.payload(self._app.conf.accept_content)
        except Exception as error:  # the message may have any content
            log.error("task %s[%s] cannot be read: %s", job.type, unit.task_id, error)
            context = Context({**request, "args": (), "kwargs": {}})
            task.backend.mark_as_failure(unit.task_id, error, request=context)
            return
        request.update(args=args, kwargs=kwargs, **(embed or {}))
        self.last = task.__trace__(unit.task_id, args, kwargs, request)
        if not unit.has_ended:
            _end(unit, request, self.last.info)


def _end(unit: Unit, request: dict[str, Any], info: Any) -> None:
    """End an attempt that the tracer has left without an end: Ignore, Reject, or a retry without a stored result."""
    state = info.state if info is not None else None
    if state == states.RETRY and unit.following is not None:
        ending.go_again(unit, None, info.retval.exc, None)
    elif state == states.REJECTED and info.retval.requeue:
        ending.reject(unit)
    elif state == states.REJECTED:
        _fail_rejected(unit, request, info.retval)
    else:
        ending.succeed(unit, None, None)


def _fail_rejected(unit: Unit, request: dict[str, Any], exc: BaseException) -> None:
    """Record what Celery's parent process records for a rejected message: a failure."""
    context = Context({**request, "called_directly": False})
    stores = not (unit.task.ignore_result if context.ignore_result is None else context.ignore_result)
    unit.task.backend.mark_as_failure(unit.task_id, exc, request=context, store_result=stores)
    signals.task_failure.send(
        sender=unit.task,
        task_id=unit.task_id,
        exception=exc,
        args=context.args,
        kwargs=context.kwargs,
        traceback=None,
        einfo=None,
    )


def _limit(held: Held, task: Any, received: Received) -> list[bool]:
    """Set the time limits of a task; the list that is returned is filled if the soft one is raised."""
    hard, soft = received.headers.get("timelimit") or (None, None)
    hard, soft = hard or task.time_limit, soft or task.soft_time_limit
    late: list[bool] = []

    def too_late() -> BaseException:
        late.append(True)
        return SoftTimeLimitExceeded()

    held.limit(float(soft or math.inf), float(hard or math.inf), too_late)
    return late


def prepare(app: Any, names: list[str]) -> None:
    """Mark in every task where the user's function runs, and build its tracer again; once in each pool process."""
    for name in names:
        task = app._tasks[name]
        task.run = _marked(task, task.run)
        task.on_replace = _collected(task.on_replace)
        task.__trace__ = build_tracer(name, task, app.loader, gethostname(), app=app)


def _marked(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def marked(*args: Any, **kwargs: Any) -> Any:
        unit = current.unit()
        if unit is None or unit.in_run or unit.task is not task:
            return run(*args, **kwargs)
        unit.in_run = True
        unit.interrupt.enter(unit.held)
        try:
            return guarded(partial(run, *args, **kwargs))
        finally:
            unit.interrupt.leave()
            unit.in_run = False

    return marked


def _collected(on_replace: Callable[..., Any]) -> Callable[..., Any]:
    """Store the task that replaces another one together with the end of that one."""

    @wraps(on_replace)
    def collected(*args: Any, **kwargs: Any) -> Any:
        unit = current.unit()
        if unit is None:
            return on_replace(*args, **kwargs)
        with unit.collects():
            return on_replace(*args, **kwargs)

    return collected
