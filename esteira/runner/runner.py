"""One hint, run: claim its jobs, call their functions one after the other, hand the outcomes to the completer.

The process may die at any line. Before the claim's commit nothing has happened; after it the lease runs out and the
keeper rescues; an end that was not written yet is an attempt that runs again. Exactly one outcome is recorded for an
attempt because every write names it. A started attempt that comes to no outcome (its connection was lost, the core
itself failed) is broken off, which counts a point of suspicion; only a stop of the process hands back uncounted.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from uuid import UUID

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # newer than its published types
from django.conf import settings

from esteira.db import ConnectionLost, PrivateConnection, sessions
from esteira.db.lost import is_connected, lost_connection, watch_connections
from esteira.db.orm import watch_orm_connections
from esteira.job_types.exceptions import Cancelled, LeaseLost, TimeLimitExceeded
from esteira.record.claim import claim, refuse
from esteira.record.finish import Break, Outcome
from esteira.record.telling import late_result
from esteira.runner import outcome as outcomes
from esteira.runner import pool_process
from esteira.runner.between import Between
from esteira.runner.calling import Refused, called
from esteira.runner.completer import Completer
from esteira.runner.heartbeat import LOCKED_PATIENCE_S, Heartbeat, lock_timeout_s
from esteira.runner.held import Held, HeldJobs
from esteira.runner.interrupt import Interrupt
from esteira.runner.job_log import Capture, Logs
from esteira.runner.runtime import OutcomeUnknown, WorkerHost
from esteira.stats import Stats
from esteira.values import spoken
from esteira.values.bounds import clean

log = logging.getLogger("esteira.runner")

#: While the database is away a hint waits here this long, then it is dropped: the keeper finds it missing.
CLAIM_PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
#: With these codes billiard's handler of signals leaves a pool process that was told to stop.
STOPPED = tuple(one - 256 for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT))


class Runner:
    """Runs hints in one pool process, for all its life."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.core = PrivateConnection("worker", lock_timeout_s=lock_timeout_s())
        self.held_jobs, self.stats, self.interrupt = HeldJobs(), Stats(), Interrupt()
        self.completer = Completer(self.core, self.held_jobs, self.stats)
        self.heartbeat = Heartbeat(self.core, self.held_jobs, self.completer, self.stats, self.interrupt)
        self.between = Between(Logs(Capture(self.held_jobs)), self.interrupt)

    def start(self) -> None:
        """Take over this process: its connections, its heartbeat, what jobs may change in it."""
        watch_orm_connections(settings.LEASE_SECONDS)
        watch_connections()
        sessions.keep_thread()
        pool_process.own(self._forget)
        self.heartbeat.start()
        self.between.install()

    def run_hint(self, ids: Sequence[str], delivery: str) -> None:
        """Run every job of a hint that can be claimed; return once all ends are written.

        Raises Leave if this process is to be replaced by another one.
        """
        with pool_process.busy():
            self._run_hint(ids, delivery)
        if self.between.spoiled:
            log.warning(
                "this process is replaced: it is not as a job must find it (%s)", self.between.spoiled
            )
            raise pool_process.Leave(0)

    def _run_hint(self, ids: Sequence[str], delivery: str) -> None:
        wanted = [UUID(one) for one in ids]
        started = time.monotonic()
        for pause in _pauses():
            try:
                claimed = claim(self.core, wanted, worker=self.worker, delivery=delivery)
                break
            except ConnectionLost as error:
                if time.monotonic() - started > CLAIM_PATIENCE_S:
                    log.warning(
                        "the database is away (%s); this hint is dropped, the keeper will send another", error
                    )
                    return
                time.sleep(pause)
        self.held_jobs.begin(claimed)
        self.heartbeat.beat()
        try:
            self.between.begin()
            if self.between.spoiled:
                self.held_jobs.hand_back_waiting()
            while held := self.held_jobs.take():
                try:
                    self._run(held)
                finally:
                    self._settle()
        except BaseException as error:
            log.exception("running a hint failed outside any job; what it holds goes back")
            self.held_jobs.hand_back_all(_failed_core(error))
            raise
        finally:
            self._write_ends()

    def _settle(self) -> None:
        """Leave this process to the next job as it was, or to no other job at all."""
        self.between.settle()
        if self.between.spoiled:
            self.held_jobs.hand_back_waiting()
        if self.between.is_cut_off:
            self._leave_cut_off()

    def _leave_cut_off(self) -> None:
        """Say over a new connection how it ends here, then end: Celery cannot be told any more."""
        log.error("a job has closed descriptors that were not its own; its process is replaced")
        self.core.close()
        self._write_ends(LOCKED_PATIENCE_S)  # what is not written by then: its lease ends
        os._exit(1)

    def _forget(self) -> None:
        self.core.forget()
        sessions.disown()

    def _write_ends(self, patience_s: float = math.inf) -> None:
        started = time.monotonic()
        for pause in _pauses():
            try:
                self.completer.flush()
                if not self.held_jobs.pending():
                    return
            except ConnectionLost as error:
                log.warning(
                    "the database is away (%s); ends of jobs wait to be written", type(error).__name__
                )
            if time.monotonic() - started > patience_s:
                return
            time.sleep(pause)

    def _run(self, held: Held) -> None:
        """Bring a started job to an end of its attempt, whatever its function and all that belongs to it may raise."""
        if held.cancelled:
            self.held_jobs.end(held, outcomes.cancelled(held, ended=time.monotonic()))
            return
        try:
            self.held_jobs.end(held, self._attempt(held))
        except Refused as refusal:
            self._refuse(held, held.scrub(refusal.why) if held.scrub else refusal.why)
        except LeaseLost:
            log.warning(
                "refused: attempt %s of job %s stops, another one owns it", held.job.attempt, held.job.id
            )
            self.held_jobs.end(held, None)
            with suppress(*ConnectionLost):  # the log has told it
                late_result(self.core, *held.mine, "lease lost")
        except OutcomeUnknown as error:
            sessions.close()
            self.held_jobs.break_off(held, _lost(error.__cause__ or error))

    def _attempt(self, held: Held) -> Outcome | None:
        """Call the function; return the outcome to record, or None if its completion was recorded with its effects."""
        host = WorkerHost(
            held,
            self.core,
            self.interrupt,
            time.monotonic,
            lambda o: self.completer.count(held, o, "succeeded"),
        )
        held.connected = is_connected()
        try:
            with self.interrupt.inside(held):
                return self.between.call(called, held, host, self.between)
        except (Refused, OutcomeUnknown):
            raise
        except Cancelled as raised:
            error: BaseException = raised
        except BaseException as raised:  # SystemExit too: a job must not take its process along
            if held.lost and outcomes.is_a(raised, LeaseLost):
                raise
            _leave_if_told(raised)
            error = raised
        return self._raised(held, error, time.monotonic())

    def _raised(self, held: Held, error: BaseException, ended: float) -> Outcome | None:
        if held.completed:
            said = spoken.said(error)[:500]
            log.warning("job %s (%s) raised after its completion: %s", held.job.id, held.job.type, said)
            return None
        if held.unsure is not None:
            raise OutcomeUnknown from held.unsure
        if outcomes.is_a(error, Cancelled):
            sessions.close()
            return outcomes.cancelled(held, ended=ended)
        if not outcomes.is_a(error, *outcomes.SAID_ON_PURPOSE) and (
            cause := lost_connection(
                error,
                since=held.started or held.claimed,
                connected=held.connected,
                core_errors=held.core_errors,
            )
        ):
            raise OutcomeUnknown from cause
        if outcomes.is_a(error, TimeLimitExceeded):
            sessions.close()
        outcome = outcomes.failed(held, error, ended=ended)
        log.info(
            "job %s (%s) failed on try %s: %s",
            held.job.id,
            held.job.type,
            held.job.failures + 1,
            f"{spoken.name_of(error)}: {spoken.said(error)}"[:500],
        )
        return outcome

    def _refuse(self, held: Held, why: str) -> None:
        log.warning(
            "job %s (%s): its parameters are refused by this release: %s", held.job.id, held.job.type, why
        )
        for pause in _pauses():
            try:
                refuse(self.core, [(*held.mine, why)], worker=self.worker)
                break
            except ConnectionLost as error:
                log.warning("the database is away (%s); a refusal waits to be written", type(error).__name__)
                time.sleep(pause)
        self.held_jobs.end(held, None)


def _leave_if_told(error: BaseException) -> None:
    """Let a signal that ends this process end it: what it raised inside the job is not the job's failure.

    A stop is raised on, and what is held goes back. Any other signal (a limit of processor time, an alarm that nobody
    handles) is as good as a crash, and counts as one: it may come back whenever this job runs.
    """
    if not terminate_handler_fired():
        return
    if isinstance(error, SystemExit) and error.code not in STOPPED:
        os.kill(os.getpid(), signal.SIGKILL)
    raise error


def _lost(error: BaseException) -> Break:
    return Break(
        reason="connection lost",
        type="ConnectionLost",
        message="This job lost its connection to the database while it ran, the last time by "
        f"{spoken.name_of(error)}: {_short(error)}. If the database was healthy, the job cuts its own connection: "
        "by a query that crashes the server, or by a transaction that is idle for longer than the server allows.",
    )


def _failed_core(error: BaseException) -> Break | None:
    """A stop of the process counts nothing; an error of the core does, because it may come again and again."""
    if not isinstance(error, Exception):
        return None
    return Break(
        reason="worker failed",
        type="CoreError",
        message=f"The worker itself failed around this job: {spoken.name_of(error)}: {_short(error)}.",
    )


def _short(error: BaseException) -> str:
    return clean(spoken.said(error)).strip().rstrip(".")[:500]


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE_S)
