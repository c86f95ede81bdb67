"""What the running attempt of a task has collected so far: what is stored together with its end.

A pool process runs one attempt at a time. It is known by a context variable, so that threads of the task's own send
like any other program: their messages are stored at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from esteira.db import PrivateConnection
from esteira.record.finish import Outcome
from esteira.record.tasks import NewTask
from esteira.runner.held import Ending, Held
from esteira.runner.interrupt import Interrupt


class Unit:
    """One attempt: its id for callers, and what its end has to store."""

    def __init__(
        self,
        *,
        task: Any,
        task_id: str,
        retries: int,
        held: Held | None,
        core: PrivateConnection,
        interrupt: Interrupt,
        count: Callable[[Held, Outcome, str], None],
    ) -> None:
        self.task, self.task_id, self.retries, self._held = task, task_id, retries, held
        self.core, self.interrupt, self._count = core, interrupt, count
        #: Messages that are sent while this is above 0 are stored with the end of the task.
        self.collecting = 0
        self.collected: list[NewTask] = []
        #: The message by which the task asked to be tried again.
        self.following: NewTask | None = None
        #: What has to be done after the commit of the end.
        self.later: list[Callable[[], None]] = []
        #: How the attempt ended, if the runner has to record that.
        self.outcome: Ending | None = None
        self.in_run = self.in_end = self.has_ended = False

    @property
    def held(self) -> Held:
        """The job of the attempt, in a worker's process."""
        assert self._held is not None, "only an attempt has a held job"
        return self._held

    def count(self, outcome: Outcome, state: str) -> None:
        """Count the end of this attempt for the statistics."""
        self._count(self.held, outcome, state)

    def owns(self, task_id: str) -> bool:
        """Return whether Celery's tracer reports the end of this attempt: not the user's function, and not a second."""
        return task_id == self.task_id and not (self.in_run or self.has_ended)

    def takes(self, sent: list[NewTask], retries_of: Callable[[NewTask], int]) -> list[NewTask]:
        """Keep what belongs to the end of this attempt; return the messages that are stored now."""
        rest = []
        for one in sent:
            if one.task_id == self.task_id and retries_of(one) == self.retries + 1 and not self.has_ended:
                self.following = one
            elif self.collecting:
                self.collected.append(one)
            else:
                rest.append(one)
        return rest

    @contextmanager
    def collects(self) -> Iterator[None]:
        self.collecting += 1
        try:
            yield
        finally:
            self.collecting -= 1


_unit: ContextVar[Unit | None] = ContextVar("esteira_task", default=None)


def unit() -> Unit | None:
    """Return the attempt that runs in this context, if any."""
    return _unit.get()


@contextmanager
def running(one: Unit) -> Iterator[None]:
    token = _unit.set(one)
    try:
        yield
    finally:
        _unit.reset(token)
