"""The worker's side of a job's context: files, progress, cancellation, and the completion.

A completion is the last statement in the transaction of the job's own effects, and is written only if that transaction
is still the one that began: a job that ended it by a raw COMMIT or ROLLBACK cannot succeed. A committed completion
stays recorded, also if an error is raised afterwards. If the answer to a commit is lost, `OutcomeUnknown` leaves the
attempt without an outcome, and only the row shows it. If the process dies here, the server rolls the transaction back
and the lease ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

from django.conf import settings
from django.db import DatabaseError, connections, transaction
from psycopg.errors import LockNotAvailable

from esteira import files
from esteira.db import ConnectionLost, DjangoConnection, Params, PrivateConnection, Row, sessions
from esteira.db.lost import blames_the_writer, is_closed
from esteira.job_types.context import Done
from esteira.job_types.exceptions import Cancelled, LeaseLost, TransactionEnded
from esteira.record import finish
from esteira.record.finish import Outcome
from esteira.runner.held import Held, Phase
from esteira.runner.interrupt import Interrupt
from esteira.runner.outcome import succeeded
from esteira.runner.pool_process import leave_if_forked
from esteira.values.bounds import PROGRESS_TEXT

log = logging.getLogger("esteira.runner")

#: A setting local to the completion's transaction: a raw COMMIT or ROLLBACK removes it.
MARK = "esteira.completing"
#: The pause between two tries of a file's statement that another transaction's lock prevents.
LOCKED_PAUSE_S = 0.1


class OutcomeUnknown(BaseException):
    """A job's attempt has no outcome, because its connection was lost; a BaseException, so that no job swallows it."""


class WorkerHost:
    """One attempt's access to the database; everything except the completion uses the core's private connection."""

    def __init__(
        self,
        held: Held,
        core: PrivateConnection,
        interrupt: Interrupt,
        recorded: Callable[[Held, Outcome], None],
    ) -> None:
        self._held, self._core, self._interrupt, self._recorded = held, core, interrupt, recorded

    @property
    def cancelled(self) -> bool:
        return self._held.cancelled

    def check(self) -> None:
        if self._held.phase is Phase.LOST:
            raise LeaseLost
        if self._held.cancelled:
            raise Cancelled

    def progress(self, done: float, total: float | None, text: str) -> None:
        self._held.progress.append((done, total, self._scrubbed(text)[:PROGRESS_TEXT]))

    @contextmanager
    def file(self, name: str, content_type: str | None) -> Iterator[IO[bytes]]:
        job = self._held.job
        name, content_type = self._scrubbed(name), content_type and self._scrubbed(content_type)
        db = _ShieldedDb(self._core, self._interrupt, self._held)
        with files.open_result(job.id, job.attempt, name, content_type, db=db) as file:
            yield file
        self._held.has_files = True

    def open(self, ref: str) -> IO[bytes]:
        return files.open_file(ref)

    @contextmanager
    def completing(self) -> Iterator[Done]:
        held, done, way = self._held, Done(), _Way()
        if held.has_completed:
            raise RuntimeError("completing: this job has already completed; a job completes once")
        _refuse_open_transaction()
        # Covers the completion's statement and its commit: a time limit that passes meanwhile is raised after them.
        with ExitStack() as shield:
            try:
                with transaction.atomic(durable=True):
                    # kept, because Django replaces a broken connection before it can be checked
                    way.raw = connections["default"].connection
                    # Registered before the function's own hooks: the commit is known even if they raise errors.
                    transaction.on_commit(way.note_commit)
                    DjangoConnection().fetch("SELECT set_config(%s, %s, true)", [MARK, held.job.type])
                    yield done
                    outcome = succeeded(held, done.result, ended=time.monotonic())
                    shield.enter_context(self._interrupt.shield())
                    way.stage = "writing"
                    self._complete(outcome)
                    way.stage = "committing"
                    held.begin_commit()
                if sessions.is_enclosed("default"):
                    way.note_commit()  # Django calls it after the commit of the enclosing transaction
            except BaseException as error:
                if way.is_unsure(error):
                    held.unsure = error
                    raise OutcomeUnknown from error
                raise
            finally:
                held.end_commit(committed=way.committed)
                if way.committed:
                    self._recorded(held, outcome)

    def _scrubbed(self, text: str) -> str:
        return self._held.scrub(text) if self._held.scrub else text

    def _complete(self, outcome: Outcome) -> None:
        """Write the completion as the transaction's last statement; if it is refused, everything is rolled back."""
        leave_if_forked()
        db = DjangoConnection()
        millis = max(1000, int(self._held.job.lease_s * 1000))
        rows = db.fetch(
            """SELECT current_setting(%s, true) = %s,
                 set_config('idle_in_transaction_session_timeout', %s, true)""",
            [MARK, self._held.job.type, str(millis)],
        )
        if not rows[0][0]:
            raise TransactionEnded
        if not finish.complete(db, outcome):
            self._held.lose()
            raise LeaseLost


@dataclass(slots=True)
class _Way:
    """How far a completion has come. Once committed, it stays so, also if an error is raised afterwards."""

    stage: str = "open"
    committed: bool = False
    raw: Any = None

    def note_commit(self) -> None:
        self.committed = True

    def is_unsure(self, error: BaseException) -> bool:
        """Return whether only the row shows if the completion was committed, or the server could not execute it.

        An error of a healthy server is the job's failure: a constraint that the commit checks, a conflict, a lock.
        """
        if self.committed or isinstance(error, LeaseLost | TransactionEnded):
            return False
        if is_closed(self.raw):
            return self.stage != "open" or isinstance(error, ConnectionLost)
        if self.stage == "writing":
            return not (isinstance(error, DatabaseError) and blames_the_writer(error))
        return self.stage == "committing" and not isinstance(error, DatabaseError)


def _refuse_open_transaction() -> None:
    django = connections["default"]
    if sessions.is_enclosed("default"):
        return
    if django.in_atomic_block:
        raise RuntimeError(
            "completing: it must be the outermost transaction; leave transaction.atomic() first"
        )
    if not django.get_autocommit():
        raise RuntimeError(
            "completing: it commits by itself, and autocommit is off; call transaction.set_autocommit(True) first"
        )


class _ShieldedDb:
    """The core's connection for a job's files: no time limit is raised in the middle of a statement.

    Its errors while the database is unavailable are remembered, because they are not the job's own. It waits for a lock
    in short steps, between which the heartbeat can extend leases.
    """

    def __init__(self, core: PrivateConnection, interrupt: Interrupt, held: Held) -> None:
        self._core, self._interrupt, self._held = core, interrupt, held
        self._in_transaction = False

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        started = time.monotonic()
        while True:
            with self._interrupt.shield(), self._remembering():
                try:
                    return self._core.fetch(sql, params)
                except LockNotAvailable:
                    if self._in_transaction or time.monotonic() - started > settings.ESTEIRA_LEASE_SECONDS:
                        raise
            time.sleep(LOCKED_PAUSE_S)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._interrupt.shield(), self._remembering(), self._core.transaction():
            self._in_transaction = True
            try:
                yield
            finally:
                self._in_transaction = False

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost as error:
            self._held.core_errors += (error,)
            raise
