"""Run a hint: claim its jobs, run them one after the other, and leave their outcomes to the completer.

The process may die at any line. Before the claim's commit nothing has happened. After it, the lease ends and the keeper
rescues the job: an attempt whose outcome is not written yet runs again. Exactly one outcome is recorded for an attempt
because every write names it. A started attempt without an outcome (its connection was lost, or the core itself failed)
is broken off, which counts a point of suspicion; only a stop of the process hands back without counting anything.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence

from django.conf import settings

from esteira.broker.next_hint import NextHint
from esteira.db import PrivateConnection, sessions
from esteira.db.lost import watch_connections
from esteira.db.orm import watch_orm_connections
from esteira.record.claim import claim
from esteira.runner import pool_process
from esteira.runner.attempt import Attempts, RunTask
from esteira.runner.between import Between
from esteira.runner.completer import Completer
from esteira.runner.heartbeat import LOCKED_PATIENCE_S, Heartbeat, lock_timeout_s
from esteira.runner.held import Ending, HandBack, HeldJobs
from esteira.runner.interrupt import Interrupt
from esteira.runner.job_log import Capture, Logs
from esteira.runner.outcome import core_failed
from esteira.runner.patience import until_answered
from esteira.stats import Stats

log = logging.getLogger("esteira.runner")

#: A process takes following hints of short jobs by itself for so long; then it returns to Celery.
TAKING_S = 0.1
#: How long a hint waits for an unavailable database; then it is dropped, and the keeper finds it missing.
CLAIM_PATIENCE_S = 60.0


class Runner:
    """Runs hints in one pool process, from its start to its end."""

    def __init__(self, worker: str, run_task: Callable[[Runner], RunTask] | None = None) -> None:
        """Make a runner; `run_task` makes the function that runs attempts of Celery tasks, if an app is adopted."""
        self.worker = worker
        self.core = PrivateConnection("worker", lock_timeout_s=lock_timeout_s())
        self.held_jobs, self.stats, self.interrupt = HeldJobs(), Stats(), Interrupt()
        self.completer = Completer(self.core, self.held_jobs, self.stats)
        self.heartbeat = Heartbeat(self.core, self.held_jobs, self.completer, self.stats, self.interrupt)
        self.between = Between(Logs(Capture(self.held_jobs)), self.interrupt)
        self.attempts = Attempts(
            worker,
            self.core,
            self.interrupt,
            self.between,
            recorded=self.completer.count_completion,
            run_task=run_task(self) if run_task else None,
        )

    def start(self) -> None:
        """Set up this process: watch its connections, start its heartbeat, record the state that jobs may change."""
        watch_orm_connections(settings.ESTEIRA_LEASE_SECONDS)
        watch_connections()
        sessions.keep_thread()
        pool_process.own(self._forget)
        self.heartbeat.start()
        self.between.install()

    def _forget(self) -> None:
        self.core.forget()
        sessions.disown()

    def run_hint(self, ids: Sequence[str], delivery: str, following: NextHint = tuple) -> None:
        """Run every job of a hint that can be claimed; return once all outcomes are written.

        After a hint of several jobs, those of the `following` ones run in the same delivery, for a tenth of a second.
        Raises Leave if this process is to be replaced by another one.
        """
        began = time.monotonic()
        with pool_process.busy():
            self._run(ids, delivery)
            while len(ids) > 1 and self._goes_on(began) and (ids := following()):
                self._run(ids, delivery)
        if self.between.spoiled:
            log.warning(
                "this process is replaced: its state cannot be restored for the next job (%s)",
                self.between.spoiled,
            )
            raise pool_process.Leave(0)

    def _goes_on(self, began: float) -> bool:
        return not (
            self.between.spoiled or pool_process.asked_to_stop() or time.monotonic() - began > TAKING_S
        )

    def _run(self, ids: Sequence[str], delivery: str) -> None:
        if self._claim(ids, delivery):
            try:
                self._run_held()
            finally:
                self._write_outcomes()

    def _claim(self, ids: Sequence[str], delivery: str) -> bool:
        """Claim the jobs of a hint, as far as possible; False if the database was unavailable for too long."""
        claimed = until_answered(
            lambda: claim(self.core, ids, worker=self.worker, delivery=delivery),
            waits="a hint waits",
            patience_s=CLAIM_PATIENCE_S,
        )
        if claimed is None:
            log.warning("a hint has waited too long and is dropped; the keeper will publish another")
            return False
        self.held_jobs.begin(claimed)
        self.heartbeat.beat()
        return True

    def _run_held(self) -> None:
        try:
            self.between.begin()
            if self.between.spoiled:
                self.held_jobs.hand_back_waiting()
            while held := self.held_jobs.take():
                outcome: Ending | None = HandBack()  # if a stop of the process raises, nothing is counted
                try:
                    outcome = self.attempts.outcome_of(held)
                except Exception as error:  # of the core; it counts, because it may occur with every try
                    outcome = core_failed(error)
                    raise
                finally:
                    self.held_jobs.end(held, outcome)
                    self._settle()
        except BaseException:
            log.exception("running a hint failed outside any job; its jobs are handed back")
            raise
        finally:
            self.held_jobs.hand_back_waiting()

    def _settle(self) -> None:
        """Restore this process for the next job; if that fails, hand the other jobs back."""
        self.between.settle()
        if self.between.spoiled:
            self.held_jobs.hand_back_waiting()
        if self.between.is_cut_off:
            self._leave_cut_off()

    def _leave_cut_off(self) -> None:
        """Write the outcomes over a new connection, then end this process: Celery can no longer be reached."""
        log.error("a job has closed descriptors that were not its own; its process is replaced")
        self.core.close()
        self._write_outcomes(LOCKED_PATIENCE_S)  # leases of jobs that are not written by then end
        os._exit(1)

    def _write_outcomes(self, patience_s: float = math.inf) -> None:
        until_answered(self._all_written, waits="outcomes wait to be written", patience_s=patience_s)

    def _all_written(self) -> bool | None:
        self.completer.flush()
        return None if self.held_jobs.pending() else True
