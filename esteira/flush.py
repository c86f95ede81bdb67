"""Write what a pool process has to tell: ends of attempts, jobs handed back, logs, progress, counts.

Completions go off the job's path: the heart thread writes them while the next job runs, and the main thread writes the
last ones before it takes another hint. Everything here may be repeated after a lost connection, because each write
names its attempt. A value that the database refuses fails its own job only.
"""

from __future__ import annotations

import json
import logging
from uuid import UUID

import psycopg

from esteira.db import Core, Gone
from esteira.record import finish
from esteira.record.finish import Outcome
from esteira.slot import Held, Pending, Slot
from esteira.stats import Stats

log = logging.getLogger("esteira.flush")


class Ledger:
    """The one way from a slot to the database; calls of both threads take turns on the core's lock."""

    def __init__(self, core: Core, slot: Slot, stats: Stats) -> None:
        self._core, self._slot, self._stats = core, slot, stats

    def flush(self, *, running_too: bool = False) -> None:
        """Write all that waits; raises one of `db.Gone`, and then nothing is forgotten."""
        with self._core.lock:
            pending = self._slot.collect(running_too=running_too)
            if not pending:
                return
            try:
                self._write(pending)
            except Gone:
                self._slot.put_back(pending)
                raise

    def _write(self, pending: Pending) -> None:
        """Logs before ends, so that whoever sees an end sees its log; what is written leaves the list at once."""
        self._write_logs(pending)
        while pending.progress:
            held, (done, total, text) = pending.progress[-1]
            if not held.completed:
                finish.progress(self._core, *held.mine, done, total, text)
            pending.progress.pop()
        if pending.ended:
            self._write_ends(pending.ended)
            pending.ended = []
        if pending.returning:
            finish.hand_back(self._core, [held.mine for held in pending.returning])
            pending.returning = []

    def _write_logs(self, pending: Pending) -> None:
        if not pending.logs:
            return
        finish.log_lines(
            self._core, [(*held.mine, text.replace("\0", "\ufffd")) for held, text in pending.logs]
        )
        pending.logs = []

    def _write_ends(self, ended: list[tuple[Held, Outcome]]) -> None:
        states = self.record([outcome for _, outcome in ended])
        for held, outcome in ended:
            self.count(held, outcome, states.get(outcome.id))

    def record(self, outcomes: list[Outcome]) -> dict[UUID, str]:
        """Record ends; a value that PostgreSQL refuses turns its own attempt into a failure."""
        try:
            return finish.finish(self._core, outcomes)
        except Gone:
            raise
        except psycopg.Error as error:
            if len(outcomes) > 1:
                states: dict[UUID, str] = {}
                for one in outcomes:
                    states.update(self.record([one]))
                return states
            log.error("job %s: the database refuses its end: %s", outcomes[0].id, error)
            return finish.finish(self._core, [_unwritable(outcomes[0], error)])

    def count(self, held: Held, outcome: Outcome, state: str | None) -> None:
        """Count an end for the statistics, or say loudly that it was refused."""
        if state is None:
            log.warning(
                "refused: attempt %s of job %s (%s) ended %s, but another attempt owns the job by now",
                held.job.attempt,
                held.job.id,
                held.job.type,
                outcome.kind,
            )
            finish.refused(self._core, *held.mine, outcome.kind)
            return
        told = "retried" if state == "queued" else state
        self._stats.add(held.job.type, held.job.queue, told, max(0.0, outcome.ended_s - outcome.started_s))


def _unwritable(outcome: Outcome, error: psycopg.Error) -> Outcome:
    said = str(error).encode("ascii", "replace").decode().replace("\0", "?")[:500]
    message = f"What this attempt returned or raised cannot be stored: {said}"
    return Outcome(
        id=outcome.id,
        attempt=outcome.attempt,
        kind="given_up",
        started_s=outcome.started_s,
        ended_s=outcome.ended_s,
        error=json.dumps({"kind": "unwritable", "type": type(error).__name__, "message": message}),
    )
