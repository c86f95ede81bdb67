"""Write what a pool process has collected: outcomes of attempts, jobs handed back, logs, progress, counts.

A job does not wait for its outcome to be written: the heartbeat thread writes it while the next job runs, and the main
thread writes the last ones before it takes another hint. Every write may be repeated after a lost connection, because
it names its attempt. A value that the database refuses affects its own job only, and an outcome that cannot be written
at all breaks its attempt off. If another transaction locks a job's row, the writes for that job are kept for the next
time, and delay no others. No outcome is forgotten.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from uuid import UUID

from esteira.db import ConnectionLost, PrivateConnection
from esteira.record import finish, lease, telling
from esteira.record.finish import Outcome
from esteira.record.lease import Break
from esteira.runner.held import HandBack, Held, HeldJobs, Pending
from esteira.stats import Stats

log = logging.getLogger("esteira.runner")

#: The state that `finish` returns for an attempt whose row is locked: its outcome is not recorded yet.
RUNNING = "running"


class Completer:
    """The only path from the held jobs to the database; calls of the two threads alternate by the core's lock."""

    def __init__(self, core: PrivateConnection, held_jobs: HeldJobs, stats: Stats) -> None:
        self._core, self._held_jobs, self._stats = core, held_jobs, stats

    def flush(self, *, running_too: bool = False) -> None:
        """Write everything that waits; raises one of `db.ConnectionLost`, after which nothing is forgotten.

        The writes for a locked row still wait afterwards.
        """
        with self._core.lock:
            pending = self._held_jobs.collect(running_too=running_too)
            if not pending:
                return
            try:
                self._write(pending)
            finally:
                self._held_jobs.put_back(pending)

    def _write(self, pending: Pending) -> None:
        """Write logs before outcomes: a reader who sees that a job has ended also sees its log."""
        self._write_logs(pending)
        self._write_progress(pending)
        self._write_outcomes([held for held in pending.over if isinstance(held.outcome, Outcome)])
        self._hand_back([held for held in pending.over if isinstance(held.outcome, HandBack)])
        for held in pending.over:
            if isinstance(held.outcome, Break) and self._break_off(held, held.outcome):
                held.outcome = None

    def _write_logs(self, pending: Pending) -> None:
        if not pending.logs:
            return
        lines = [(*held.mine, text.replace("\0", "\ufffd")) for held, text in pending.logs]
        locked: set[UUID] = set()
        try:
            locked = telling.log_lines(self._core, lines)
        except ConnectionLost:
            raise
        except Exception as error:  # a log must not prevent an outcome
            log.error("pieces of log of %s jobs cannot be stored: %s", len(lines), error)
        pending.logs = [(held, text) for held, text in pending.logs if held.job.id in locked]

    def _write_progress(self, pending: Pending) -> None:
        for told in list(pending.progress):
            held, (done, total, text) = told
            try:
                if not telling.progress(self._core, *held.mine, done, total, text):
                    continue
            except ConnectionLost:
                raise
            except Exception as error:  # nor must progress
                log.error("the progress of job %s cannot be stored: %s", held.job.id, error)
            pending.progress.remove(told)

    def _write_outcomes(self, over: list[Held]) -> None:
        outcomes = [held.outcome for held in over if isinstance(held.outcome, Outcome)]
        states = self.record(outcomes) if outcomes else {}
        for held, outcome in zip(over, outcomes, strict=True):
            state = states.get(outcome.id)
            if state != RUNNING:
                self.count(held, outcome, state)
                held.outcome = None

    def _hand_back(self, over: list[Held]) -> None:
        mine = [held.mine for held in over]
        locked: Collection[UUID] = ()
        if lease.hand_back(self._core, mine) < len(mine):
            locked = lease.still_mine(self._core, mine)
        for held in over:
            if held.job.id not in locked:
                held.outcome = None

    def record(self, outcomes: list[Outcome]) -> dict[UUID, str]:
        """Record outcomes as `finish` does; a value that cannot be stored turns its own attempt into a failure."""
        try:
            return finish.finish(self._core, outcomes)
        except ConnectionLost:
            raise
        except Exception as error:  # a value may cause errors of the driver and of the encoding
            if len(outcomes) > 1:
                states: dict[UUID, str] = {}
                for one in outcomes:
                    states.update(self.record([one]))
                return states
            return self._record_refused(outcomes[0], error)

    def _record_refused(self, outcome: Outcome, error: Exception) -> dict[UUID, str]:
        log.error("job %s: the database refuses its outcome: %s", outcome.id, error)
        try:
            return finish.finish(self._core, [_unwritable(outcome, error)])
        except ConnectionLost:
            raise
        except Exception as worse:
            log.exception("job %s: its failure cannot be written either", outcome.id)
            cause = Break(reason="its outcome cannot be written", type="Unwritable", message=_plain(worse))
            state = lease.break_off(self._core, outcome.id, outcome.attempt, cause)
            return {outcome.id: state} if state else {}

    def _break_off(self, held: Held, cause: Break) -> bool:
        """Hand back a started attempt that has no outcome; False if its row is locked, and the attempt must wait.

        Its own last transaction may hold the lock, until the server notices that the connection is gone.
        """
        state = lease.break_off(self._core, *held.mine, cause)
        if state == RUNNING:
            return False
        if state is None and telling.state_of(self._core, *held.mine) == "succeeded":
            log.info("job %s: %s, but its completion had been committed", held.job.id, cause.reason)
            self._stats.add(held.job.type, held.job.queue, "succeeded", time.monotonic() - held.claimed)
            return True
        log.warning(
            "job %s: %s (%s); the job is now %s",
            held.job.id,
            cause.reason,
            cause.message,
            state or "owned by another attempt",
        )
        return True

    def count_completion(self, held: Held, outcome: Outcome) -> None:
        """Count a success that a completion has recorded together with the job's effects."""
        self.count(held, outcome, "succeeded")

    def count(self, held: Held, outcome: Outcome, state: str | None) -> None:
        """Count an outcome for the statistics, or warn that it came too late."""
        if state is None:
            log.warning(
                "refused: attempt %s of job %s (%s) ended as %s, but another attempt owns the job now",
                held.job.attempt,
                held.job.id,
                held.job.type,
                outcome.kind,
            )
            telling.late_result(self._core, *held.mine, outcome.kind)
            return
        told = "retried" if state == "queued" else state
        self._stats.add(held.job.type, held.job.queue, told, max(0.0, outcome.ended_s - outcome.started_s))


def _unwritable(outcome: Outcome, error: Exception) -> Outcome:
    message = f"What this attempt returned or raised cannot be stored: {_plain(error)}"
    return Outcome(
        id=outcome.id,
        attempt=outcome.attempt,
        kind="given_up",
        started_s=outcome.started_s,
        ended_s=outcome.ended_s,
        error=json.dumps({"kind": "unwritable", "type": type(error).__name__, "message": message}),
    )


def _plain(error: Exception) -> str:
    return str(error).encode("ascii", "replace").decode().replace("\0", "?")[:500]
