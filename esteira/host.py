"""What stands behind a job's context while a worker runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

from django.db import connections, transaction

from esteira import files, outcomes, pool_process
from esteira.context import Done
from esteira.db import Core, Gone, Orm, Params, Row
from esteira.errors import Cancelled, LeaseLost
from esteira.limits import Interrupt
from esteira.record import finish
from esteira.record.finish import Outcome
from esteira.slot import Held

log = logging.getLogger("esteira.run")

PROGRESS_TEXT_MAX = 200


class ConnectionLost(BaseException):
    """The job's own connection broke inside its completion; a BaseException, so that no job swallows it."""


class WorkerHost:
    """One attempt's way to the database; everything but the completion travels on the core's private connection."""

    def __init__(
        self,
        held: Held,
        core: Core,
        interrupt: Interrupt,
        now: Callable[[], float],
        recorded: Callable[[Outcome], None],
    ) -> None:
        self._held, self._core, self._interrupt = held, core, interrupt
        self._now, self._recorded = now, recorded

    @property
    def cancelled(self) -> bool:
        return self._held.cancelled

    def check(self) -> None:
        if self._held.lost:
            raise LeaseLost
        if self._held.cancelled:
            raise Cancelled

    def progress(self, done: float, total: float | None, text: str) -> None:
        self._held.progress = (
            float(done),
            None if total is None else float(total),
            outcomes.clean(str(text))[:PROGRESS_TEXT_MAX],
        )

    @contextmanager
    def file(self, name: str, content_type: str | None) -> Iterator[IO[bytes]]:
        job = self._held.job
        db = _ShieldedDb(self._core, self._interrupt)
        with files.open_result(job.id, job.attempt, name, content_type, db=db) as file:
            yield file
        self._held.has_files = True

    def open(self, ref: str) -> IO[bytes]:
        return files.open_file(ref)

    @contextmanager
    def completing(self) -> Iterator[Done]:
        held, done, raw = self._held, Done(), None
        if held.completed:
            raise RuntimeError("completing: this job has completed already; a job completes once")
        if connections["default"].in_atomic_block:
            raise RuntimeError(
                "completing: it must be the outermost transaction; leave transaction.atomic() first"
            )
        try:
            with ExitStack() as shield, transaction.atomic(durable=True):
                raw = connections[
                    "default"
                ].connection  # Django replaces a broken one before we can look at it
                yield done
                shield.enter_context(self._interrupt.shield())
                outcome = outcomes.succeeded(held, done.result, ended=self._now())
                self._complete(outcome)
                held.completed = True  # until the commit says otherwise: no lease write may meet this row now
        except BaseException as error:
            held.completed = False
            if isinstance(error, Gone) and (raw is None or raw.closed or raw.broken):
                raise ConnectionLost from error
            raise
        held.completed = True
        self._recorded(outcome)

    def _complete(self, outcome: Outcome) -> None:
        """Write the completion as the transaction's last statement; refused means that everything is undone."""
        pool_process.leave_if_forked()
        db = Orm()
        millis = max(1000, int(self._held.job.lease_s * 1000))
        db.fetch("SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [str(millis)])
        if outcome.id not in finish.finish(db, [outcome]):
            self._held.lost = True
            raise LeaseLost


class _ShieldedDb:
    """The core's connection as a job's file uses it: no limit is raised in the middle of a statement."""

    def __init__(self, core: Core, interrupt: Interrupt) -> None:
        self._core, self._interrupt = core, interrupt

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        with self._interrupt.shield():
            return self._core.fetch(sql, params)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._interrupt.shield(), self._core.transaction():
            yield
