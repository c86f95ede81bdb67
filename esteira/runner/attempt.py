"""One attempt, from its start to its outcome: run the job's code, and decide how the attempt ended.

`outcome_of` returns even if the job's code raises. It returns an outcome, a break if the outcome is unknown, or None if
nothing is left to record: a completion or a refusal has recorded it already, or another attempt owns the job. It raises
only a stop of the process and errors of the core. If the process dies here, the lease ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from esteira.db import ConnectionLost, PrivateConnection, sessions
from esteira.db.lost import is_connected, lost_connection
from esteira.job_types.exceptions import Cancelled, LeaseLost, TimeLimitExceeded
from esteira.record.claim import refuse
from esteira.record.finish import Outcome
from esteira.record.lease import Break
from esteira.record.telling import late_result
from esteira.runner.between import Between
from esteira.runner.calling import Refused, called
from esteira.runner.held import Ending, Held, Phase
from esteira.runner.interrupt import Interrupt
from esteira.runner.outcome import SAID_ON_PURPOSE, cancelled, connection_lost, failed, is_a
from esteira.runner.patience import until_answered
from esteira.runner.pool_process import leave_if_told
from esteira.runner.runtime import OutcomeUnknown, WorkerHost
from esteira.values import spoken

log = logging.getLogger("esteira.runner")

#: Runs an attempt of an adopted Celery task. It records the outcome itself, or returns it, or None if there is none.
RunTask = Callable[[Held, Interrupt], Ending | None]


class Attempts:
    """Runs the attempts of one pool process, one after the other; for its main thread only."""

    def __init__(
        self,
        worker: str,
        core: PrivateConnection,
        interrupt: Interrupt,
        between: Between,
        recorded: Callable[[Held, Outcome], None],
        run_task: RunTask | None = None,
    ) -> None:
        self._worker, self._core, self._interrupt = worker, core, interrupt
        self._between, self._recorded, self._run_task = between, recorded, run_task

    def outcome_of(self, held: Held) -> Ending | None:
        """Run a job that this process has taken, and return how its attempt ended."""
        if held.cancelled:
            return cancelled(held, ended=time.monotonic())
        held.connected = is_connected()
        host = WorkerHost(held, self._core, self._interrupt, self._recorded)
        try:
            if held.job.message is not None:
                return self._run_message(held)
            self._interrupt.enter(held)
            try:
                return self._between.call(called, held, host)
            finally:
                self._interrupt.leave()
        except Refused as refusal:
            return self._refused(held, refusal)
        except OutcomeUnknown as error:
            return _unknown(error.__cause__ or error)
        except BaseException as raised:  # SystemExit too: a job must not end its process
            return self._raised(held, raised, time.monotonic())

    def _run_message(self, held: Held) -> Ending | None:
        if self._run_task is None:
            raise Refused("this worker has not adopted a Celery app")
        return self._between.call(self._run_task, held, self._interrupt)

    def _raised(self, held: Held, error: BaseException, ended: float) -> Ending | None:
        """Decide by the error that the job's code raised; the order matters: an error may belong to two classes."""
        if held.phase is Phase.LOST and is_a(error, LeaseLost):
            return self._lost(held)
        if not is_a(error, Cancelled):
            leave_if_told(error)
        if held.has_completed:
            said = spoken.said(error)[:500]
            log.warning("job %s (%s) raised after its completion: %s", held.job.id, held.job.type, said)
            return None
        if held.unsure is not None:
            return _unknown(held.unsure)
        if is_a(error, Cancelled):
            sessions.close()
            return cancelled(held, ended=ended)
        if cause := _cause_of_loss(held, error):
            return _unknown(cause)
        if is_a(error, TimeLimitExceeded):
            sessions.close()
        return self._failed(held, error, ended)

    def _failed(self, held: Held, error: BaseException, ended: float) -> Outcome:
        outcome = failed(held, error, ended=ended)
        log.info(
            "job %s (%s) failed on try %s: %s",
            held.job.id,
            held.job.type,
            held.job.tries,
            f"{spoken.name_of(error)}: {spoken.said(error)}"[:500],
        )
        return outcome

    def _lost(self, held: Held) -> Ending | None:
        log.warning(
            "refused: attempt %s of job %s stops, another attempt owns it", held.job.attempt, held.job.id
        )
        with suppress(*ConnectionLost):  # the log line above is enough
            late_result(self._core, *held.mine, "lease lost")
        return None

    def _refused(self, held: Held, refusal: Refused) -> Ending | None:
        why = held.scrub(refusal.why) if held.scrub else refusal.why
        log.warning("job %s (%s): this release refuses its parameters: %s", held.job.id, held.job.type, why)
        until_answered(
            lambda: refuse(self._core, [(*held.mine, why)], worker=self._worker),
            waits="a refusal waits to be written",
        )
        return None


def _cause_of_loss(held: Held, error: BaseException) -> BaseException | None:
    """Return the error that lost the job's connection; None if there was none, or if the job chose its outcome."""
    if is_a(error, *SAID_ON_PURPOSE):
        return None
    return lost_connection(
        error,
        since=held.started or held.claimed,
        connected=held.connected,
        core_errors=held.core_errors,
    )


def _unknown(cause: BaseException) -> Break:
    """Break the attempt off: its connection was lost, or only the row shows whether its completion was committed."""
    sessions.close()
    return connection_lost(cause)
