"""The runner of a pool process: Celery starts the process, runs its hints as tasks in it, and ends it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import signals

from esteira.broker.next_hint import NextHint
from esteira.db import ConnectionLost
from esteira.runner import pool_process
from esteira.runner.attempt import RunTask
from esteira.runner.runner import Runner
from esteira.worker import guardian

log = logging.getLogger("esteira.worker")

PAUSE_S = 1.0

#: A global, because Celery passes only its message to a task. A process has one runner: it runs one hint at a time.
_runner: Runner | None = None
#: Makes the function that runs attempts of Celery tasks; None in a worker whose app is not adopted.
_run_task: Callable[[Runner], RunTask] | None = None


def run_tasks_by(run_task: Callable[[Runner], RunTask]) -> None:
    """Let the runners of this worker run adopted Celery tasks too; call it before the pool starts."""
    global _run_task
    _run_task = run_task


def start(worker: str) -> None:
    """Make this process ready for hints, or end it: Celery would log the error of a receiver, and continue."""
    global _runner
    try:
        pool_process.lead_group()
        guardian.watch_me()
        new = Runner(worker, _run_task)
        new.start()
        _runner = new
    except Exception:  # after any error: a process without a heartbeat must take no hint
        log.critical("a pool process cannot start; it is replaced", exc_info=True)
        time.sleep(PAUSE_S)  # the next process may fail as well
        os._exit(os.EX_SOFTWARE)


def run_hint(ids: Sequence[str], delivery: str, following: NextHint) -> None:
    """Run a hint with the runner of this process."""
    assert _runner is not None, "hints run in a worker's pool processes only"
    _runner.run_hint(ids, delivery, following)


@signals.worker_process_shutdown.connect
def _flush_stats(**_: Any) -> None:
    if _runner is not None:
        try:
            _runner.stats.flush(_runner.core)
        except ConnectionLost:
            log.info("the statistics of the last seconds are lost, because the database is unavailable")
