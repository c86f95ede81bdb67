"""The Celery task behind the hints of adopted tasks, in a worker.

A hint carries the id of one job as its argument, and shows the task's name and id to Flower and `celery inspect`. The
door hands the job to the process's one runner, and returns what Celery's tracer has returned for the real task, so that
Celery's events tell what happened to it. The parent process never uses the result backend.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task, signals
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject
from celery.utils.saferepr import saferepr
from celery.worker.state import task_ready

from esteira.broker.hint import DOOR
from esteira.celery.attempt import TaskRunner, prepare
from esteira.job_types.registry import registry
from esteira.runner.runner import Runner
from esteira.worker import pool_runner
from esteira.worker.request import JobRequest

log = logging.getLogger("esteira.celery")

REQUEST = "esteira.celery.door:TaskRequest"
ID_LENGTH = 36

#: A process has one runner, and Celery hands nothing but a message to a task.
_tasks: TaskRunner | None = None


def install(app: Any) -> None:
    """Let a worker of this app run its tasks as jobs; call it before the worker's pool starts."""
    register: Any = shared_task  # its published types do not include `Request`
    register(door, name=DOOR, ignore_result=True, acks_late=False, Request=REQUEST)
    if "json" not in app.conf.accept_content:
        app.conf.accept_content = [*app.conf.accept_content, "json"]  # hints are JSON
    registry.run_tasks(lambda: adopted(app))
    pool_runner.run_tasks_by(lambda runner: _task_runner(app, runner))
    signals.worker_process_init.connect(
        lambda **_: _prepare(app), weak=False, dispatch_uid="esteira.celery.door"
    )


def adopted(app: Any) -> list[str]:
    """Return the names of the tasks that run as jobs: all but those of job types, and the door."""
    return sorted(set(app.tasks) - {DOOR, *registry.names()})


def door(*_: Any, **__: Any) -> None:
    """Nothing: its tracer is replaced in pool processes, and it is not called anywhere else."""


class TaskRequest(JobRequest):
    """The hint of a task in the parent process, which decides nothing about the task and stores nothing."""

    def revoked(self) -> bool:
        return False

    def _success_was_stored(self) -> bool:
        return False

    def info(self, safe: bool = False) -> Any:
        """Return what `celery inspect` shows: the arguments of the task, not those of the hint."""
        return {**super().info(safe), "args": self.argsrepr, "kwargs": self.kwargsrepr}

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error: Any = getattr(exc_info.exception, "exc", exc_info.exception)
        if not issubclass(type(error), Reject):
            return super().on_failure(exc_info, send_failed_event, return_ok)
        task_ready(self)
        if not error.requeue:
            self.send_event("task-failed", exception=saferepr(error), traceback=exc_info.traceback)
        return self.reject(requeue=False)


def _task_runner(app: Any, runner: Runner) -> TaskRunner:
    global _tasks
    _tasks = TaskRunner(app, runner)
    return _tasks


def _prepare(app: Any) -> None:
    prepare(app, adopted(app))
    app.tasks[DOOR].__trace__ = _trace


def _trace(task_id: str, args: Any, kwargs: Any, request: Any) -> Any:
    """Run a hint in place of Celery's tracer, which would send the door's own signals."""
    delivery = request.get("delivery")
    if kwargs or not args or not delivery or any(len(str(one)) != ID_LENGTH for one in args):
        log.warning("a message of %s was not a hint; it is dropped: call tasks by their own names", DOOR)
        return _nothing()
    assert _tasks is not None, "hints run in a worker's pool processes only"
    _tasks.last = None
    pool_runner.run_hint(args, delivery, tuple)
    return _tasks.last or _nothing()


def _nothing() -> Any:
    """Return what makes Celery's parent process send no event: nothing ran here."""
    ignored = Ignore("the hint was late")
    return trace_ok_t(_Ignored(ignored), TraceInfo("IGNORED", ignored), 0.0, "")


class _Ignored:
    """What the parent reads of an ExceptionInfo."""

    traceback = ""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
