"""One hint, run: claim its jobs, call their functions one after the other, hand the ends to the ledger.

The process may die at any line. Before the claim's commit nothing has happened; after it the lease runs out and the
keeper rescues; an end that was not written yet is an attempt that runs again. Exactly one outcome is recorded for an
attempt because every write names it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # newer than its published types
from django.conf import settings
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from pydantic import ValidationError

from esteira import outcomes
from esteira.capture import Capture
from esteira.context import Context
from esteira.db import Core, Gone, watch_orm_connections
from esteira.errors import Cancelled, LeaseLost, TimeLimitExceeded
from esteira.flush import Ledger
from esteira.host import ConnectionLost, WorkerHost
from esteira.lease import Heart
from esteira.limits import Interrupt
from esteira.params import Params, problems
from esteira.record.claim import claim, refuse
from esteira.record.finish import Outcome, hand_back, refused, state_of
from esteira.registry import JobType, registry
from esteira.slot import Held, Slot
from esteira.stats import Stats

log = logging.getLogger("esteira.run")

#: While the database is away a hint waits here this long, then it is dropped: the keeper finds it missing.
CLAIM_PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
#: With these codes billiard's handler of signals leaves a pool process that was told to stop.
STOPPED = tuple(one - 256 for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT))


class Runner:
    """Runs hints in one pool process, for all its life."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.core = Core("worker")
        self.slot, self.stats, self.interrupt = Slot(), Stats(), Interrupt()
        self.ledger = Ledger(self.core, self.slot, self.stats)
        self.heart = Heart(self.core, self.slot, self.ledger, self.stats, self.interrupt)

    def start(self) -> None:
        """Take over this process: signal handler, log capture, heart."""
        watch_orm_connections(settings.LEASE_SECONDS)
        self.interrupt.install()
        logging.getLogger().addHandler(Capture(self.slot))
        self.heart.start()

    def run_hint(self, ids: Sequence[str], delivery: str) -> None:
        """Run every job of a hint that can be claimed; return once all ends are written."""
        wanted = [UUID(one) for one in ids]
        started = time.monotonic()
        for pause in _pauses():
            try:
                claimed = claim(self.core, wanted, worker=self.worker, delivery=delivery)
                break
            except Gone as error:
                if time.monotonic() - started > CLAIM_PATIENCE_S:
                    log.warning(
                        "the database is away (%s); this hint is dropped, the keeper will send another", error
                    )
                    return
                time.sleep(pause)
        self.slot.begin(claimed)
        self.heart.beat()
        try:
            while held := self.slot.take():
                self._run(held)
        except BaseException:
            log.exception("running a hint failed outside any job; what it holds goes back")
            self.slot.give_back_all()
            raise
        finally:
            self._write_ends()

    def _write_ends(self) -> None:
        for pause in _pauses():
            try:
                self.ledger.flush()
                return
            except Gone as error:
                log.warning(
                    "the database is away (%s); ends of jobs wait to be written", type(error).__name__
                )
                time.sleep(pause)

    def _run(self, held: Held) -> None:
        if held.cancelled:
            self.slot.end(held, outcomes.cancelled(held, ended=time.monotonic()))
            return
        kind = registry.get(held.job.type)
        try:
            params = kind.model.model_validate(json.loads(held.job.params))
        except ValidationError as error:
            self._refuse(held, error)
            return
        try:
            self.slot.end(held, self._attempt(held, kind, params))
        except LeaseLost:
            log.warning(
                "refused: attempt %s of job %s stops, another one owns it", held.job.attempt, held.job.id
            )
            self.slot.end(held, None)
            with suppress(*Gone):  # the log has told it
                refused(self.core, *held.mine, "lease lost")
        except ConnectionLost as error:
            self._after_lost_connection(held, error)
        finally:
            _tidy_connections()

    def _attempt(self, held: Held, kind: JobType, params: Params) -> Outcome | None:
        """Call the function; return the outcome to record, or None if its completion was recorded with its effects."""
        host = WorkerHost(
            held, self.core, self.interrupt, time.monotonic, lambda o: self.ledger.count(held, o, "succeeded")
        )
        context = Context(
            job_id=held.job.id,
            attempt=held.job.attempt,
            try_number=held.job.failures + 1,
            log=logging.getLogger(f"jobs.{kind.name}"),
            host=host,
        )
        try:
            with self.interrupt.inside(held):
                value = _call(kind, context, params)
        except (LeaseLost, ConnectionLost):
            raise
        except Cancelled:
            error: BaseException | None = None
        except BaseException as raised:  # SystemExit too: a job must not take its process along
            _leave_if_told(raised)
            error = raised
        else:
            return self._returned(held, value)
        ended = time.monotonic()
        if held.completed:
            said = outcomes.said(error) if error else "cancelled"
            log.warning("job %s (%s) raised after its completion: %s", held.job.id, kind.name, said[:500])
            return None
        if error is None:
            _close_connections()
            return outcomes.cancelled(held, ended=ended)
        if isinstance(error, TimeLimitExceeded):
            _close_connections()
        return self._failed(held, kind, error, ended)

    def _returned(self, held: Held, value: Any) -> Outcome | None:
        ended = time.monotonic()
        if held.completed:
            if value is not None:
                log.info("job %s returned a value after its completion; it is not recorded", held.job.id)
            return None
        try:
            return outcomes.succeeded(held, value, ended=ended)
        except outcomes.BadResult as error:
            return outcomes.failed(held, error, ended=ended)

    def _failed(self, held: Held, kind: JobType, error: BaseException, ended: float) -> Outcome:
        said = f"{type(error).__name__}: {outcomes.said(error)}"
        log.info(
            "job %s (%s) failed on try %s: %s", held.job.id, kind.name, held.job.failures + 1, said[:500]
        )
        return outcomes.failed(held, error, ended=ended)

    def _refuse(self, held: Held, error: ValidationError) -> None:
        why = "; ".join(f"{p['pointer']}: {p['detail']}" for p in problems(error)[:5])
        log.warning(
            "job %s (%s): its parameters are refused by this release: %s", held.job.id, held.job.type, why
        )
        try:
            refuse(self.core, [(*held.mine, outcomes.clean(why))], worker=self.worker)
        except Gone:
            self.slot.give_back(held)  # then the next worker refuses it, or takes it
            return
        self.slot.end(held, None)

    def _after_lost_connection(self, held: Held, error: ConnectionLost) -> None:
        """Find out whether the completion was recorded; if not, the whole attempt runs again and nothing is counted.

        Handing back first waits for a commit that is still under way; only then is the row's state the truth.
        """
        _close_connections()
        for pause in _pauses():
            try:
                handed_back = hand_back(self.core, [held.mine])
                state = state_of(self.core, *held.mine)
                break
            except Gone:
                time.sleep(pause)
        cause = type(error.__cause__).__name__
        log.warning("job %s lost its connection while completing (%s): it is %s", held.job.id, cause, state)
        held.completed = not handed_back
        self.slot.end(held, None)


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


def _call(kind: JobType, context: Context, params: Params) -> Any:
    if not kind.atomic:
        return kind.call(context, params)
    with context.completing() as done:
        done.result = kind.call(context, params)
    return None


def _tidy_connections() -> None:
    """Leave no transaction of a job open, and drop connections that broke."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or connection.needs_rollback:
            _renew(connection)
        else:
            connection.close_if_unusable_or_obsolete()


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        _renew(connection)


def _renew(connection: BaseDatabaseWrapper) -> None:
    """Close a connection and forget its state: Django keeps the nesting of a transaction that nobody left."""
    with suppress(DatabaseError):
        connection.close()
    del connections[connection.alias]


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE_S)
