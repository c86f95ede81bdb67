"""Run one job as a pool process does, but on the connection and in the transaction of a test.

A pool process writes over a private connection. It would not see what a test has not committed, so Django's own
connection takes its place. An error of the database aborts the test's transaction; it is then rolled back to the start
of the attempt, with everything that the attempt has written.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.db import connection, transaction
from psycopg.pq import TransactionStatus

from esteira.db import DjangoConnection, sessions
from esteira.record.claim import claim
from esteira.record.lease import Break
from esteira.runner.attempt import Attempts
from esteira.runner.completer import Completer
from esteira.runner.held import Ending, Held, HeldJobs
from esteira.runner.interrupt import Interrupt
from esteira.stats import Stats

T = TypeVar("T")
WORKER = "tests"
#: A completion limits how long its transaction may be idle; a test that stops in a debugger may be idle for longer.
IDLE = "idle_in_transaction_session_timeout"


class TestConnection(DjangoConnection):
    """The test's connection, with what a private connection has for its two threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def close(self) -> None:
        """Leave the connection open: it is the test's."""


class Here:
    """In the place of `runner.between`: a job gets a context of its own; the process of the tests stays as it is."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return contextvars.copy_context().run(function, *arguments)


class TestRunner:
    """Claims and runs jobs one by one; the outcome of each is written before the next."""

    def __init__(self) -> None:
        core: Any = TestConnection()
        between: Any = Here()
        self._core, self._held_jobs = core, HeldJobs()
        self._completer = Completer(core, self._held_jobs, Stats())
        recorded = self._completer.count_completion
        self._attempts = Attempts(WORKER, core, Interrupt(), between, recorded=recorded)

    def run(self, job_id: UUID) -> bool:
        """Run a job if it can be claimed now; return whether it was."""
        self._held_jobs.begin(claim(self._core, [job_id], worker=WORKER, delivery=str(uuid4())))
        held = self._held_jobs.take()
        if held is None:
            return False
        with sessions.enclosed():
            outcome = self._outcome_of(held)
        if isinstance(outcome, Break):
            raise AssertionError(
                f"The job {held.job.type} was broken off ({outcome.reason}): {outcome.message}"
            )
        self._held_jobs.end(held, outcome)
        self._completer.flush()
        return True

    def _outcome_of(self, held: Held) -> Ending | None:
        if not connection.in_atomic_block:
            return self._attempts.outcome_of(held)
        before = self._core.fetch("SELECT current_setting(%s)", [IDLE])[0][0]
        savepoint = transaction.savepoint()
        outcome = self._attempts.outcome_of(held)
        if (
            connection.connection.info.transaction_status == TransactionStatus.INERROR
            or connection.needs_rollback
        ):
            transaction.set_rollback(False)
            transaction.savepoint_rollback(savepoint)
        else:
            transaction.savepoint_commit(savepoint)
            self._core.fetch("SELECT set_config(%s, %s, true)", [IDLE, before])
        return outcome
