"""One hint, run: claim its jobs, call their functions one after the other, hand the ends to the ledger.

The process may die at any line. Before the claim's commit nothing has happened; after it the lease runs out and the
keeper rescues; an end that was not written yet is an attempt that runs again. Exactly one outcome is recorded for an
attempt because every write names it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.conf import settings
from pydantic import ValidationError

from esteira import outcomes, pool_process, sessions
from esteira.between import Between
from esteira.capture import Capture, Logs
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


class Runner:
    """Runs hints in one pool process, for all its life."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.core = Core("worker")
        self.slot, self.stats, self.interrupt = Slot(), Stats(), Interrupt()
        self.ledger = Ledger(self.core, self.slot, self.stats)
        self.heart = Heart(self.core, self.slot, self.ledger, self.stats, self.interrupt)
        self.between = Between(Logs(Capture(self.slot)), self.interrupt)

    def start(self) -> None:
        """Take over this process: its connections, what jobs may change in it, heart."""
        watch_orm_connections(settings.LEASE_SECONDS)
        pool_process.own(self._forget)
        self.between.install()
        self.heart.start()

    def run_hint(self, ids: Sequence[str], delivery: str) -> None:
        """Run every job of a hint that can be claimed; return once all ends are written.

        Raises Leave if this process is to be replaced by another one.
        """
        with pool_process.busy():
            self._run_hint(ids, delivery)
        if self.between.spoiled:
            log.warning("this process is replaced: a job has left it unusable (%s)", self.between.spoiled)
            raise pool_process.Leave(0)

    def _run_hint(self, ids: Sequence[str], delivery: str) -> None:
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
            self.between.begin()
            while held := self.slot.take():
                try:
                    self._run(held)
                finally:
                    self._settle()
        except BaseException:
            log.exception("running a hint failed outside any job; what it holds goes back")
            self.slot.give_back_all()
            raise
        finally:
            self._write_ends()

    def _settle(self) -> None:
        """Leave this process to the next job as it was, or to no other job at all."""
        self.between.settle()
        if self.between.spoiled:
            self.slot.give_back_waiting()
        if self.between.is_cut_off:
            self._leave_cut_off()

    def _leave_cut_off(self) -> None:
        """Say over a new connection how it ends here, then end: Celery cannot be told any more."""
        log.error("a job has closed descriptors that were not its own; its process is replaced")
        self.core.close()
        with suppress(*Gone):  # then the leases end
            self.ledger.flush()
        os._exit(1)

    def _forget(self) -> None:
        self.core.forget()
        sessions.disown()

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
                value = self._call(kind, context, params)
        except (LeaseLost, ConnectionLost):
            raise
        except Cancelled:
            error: BaseException | None = None
        except BaseException as raised:  # SystemExit too: a job must not take its process along
            error = raised
        else:
            return self._returned(held, value)
        ended = time.monotonic()
        if held.completed:
            said = outcomes.said(error) if error else "cancelled"
            log.warning("job %s (%s) raised after its completion: %s", held.job.id, kind.name, said[:500])
            return None
        if error is None:
            sessions.close()
            return outcomes.cancelled(held, ended=ended)
        if isinstance(error, TimeLimitExceeded):
            sessions.close()
        return self._failed(held, kind, error, ended)

    def _call(self, kind: JobType, context: Context, params: Params) -> Any:
        if not kind.atomic:
            return self.between.call(kind.call, context, params)
        with context.completing() as done:
            done.result = self.between.call(kind.call, context, params)
        return None

    def _returned(self, held: Held, value: Any) -> Outcome | None:
        ended = time.monotonic()
        if held.completed:
            if value is not None:
                log.info("job %s returned a value after its completion; it is not recorded", held.job.id)
            if left := sessions.left_open():
                log.warning("job %s had completed, and then: %s", held.job.id, left)
            return None
        try:
            outcome = outcomes.succeeded(held, value, ended=ended)
        except outcomes.BadResult as error:
            return outcomes.failed(held, error, ended=ended)
        return outcomes.failed(held, left, ended=ended) if (left := sessions.left_open()) else outcome

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
        sessions.close()
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


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE_S)
