"""The jobs that one pool process holds: those that wait for their turn, the running one, and unwritten outcomes.

The main thread takes and ends jobs; the heartbeat thread hands back, extends and writes. One lock keeps a job from
being taken and handed back at the same time. This module does not use the database.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from uuid import UUID

from esteira.job_types.exceptions import TimeLimitExceeded
from esteira.record.claim import Claimed
from esteira.record.finish import Outcome
from esteira.record.lease import Break
from esteira.runner.scrub import Scrub, scrubber

T = TypeVar("T")
#: The amount done, the total, and a text.
Progress = tuple[float, float | None, str]

#: The longest log of an attempt, in bytes of UTF-8.
LOG_MAX = 1024 * 1024
CUT = "\n[the rest was cut: an attempt keeps 1 MiB of its log]\n"


class Phase(Enum):
    """How far a claimed job has come in this process."""

    WAITING = "claimed, and not started yet"
    RUNNING = "its function runs"
    COMPLETING = "its completion is written, and the commit is in progress: the job may have ended already"
    DONE = (
        "it has ended: by a committed completion, after which its function may still run, or by its outcome"
    )
    LOST = "another attempt owns it; its function may still run"


@dataclass(frozen=True, slots=True)
class HandBack:
    """The end of an attempt that uses no try: it has not started, or its process had to stop."""


#: How an attempt ends here, if the completer has to write it.
Ending = Outcome | Break | HandBack


@dataclass(eq=False, slots=True)
class Held:
    """A claimed job while this process holds it. Times are of the process's monotonic clock, for offsets only.

    A completion changes `phase` without the lock, because it runs inside the function: a child that the job forks might
    inherit the lock while the heartbeat holds it. That is safe: the heartbeat sets only LOST, after the server gave the
    job to another attempt, and then the server refuses the completion before COMPLETING.
    """

    job: Claimed
    claimed: float
    phase: Phase = Phase.WAITING
    #: How the attempt ended, until that is written.
    outcome: Ending | None = None
    #: Whether a cancel was requested, and since when by force: both may happen in any phase, and do not change it.
    cancelled: bool = False
    forced: float | None = None
    has_files: bool = False
    started: float | None = None
    #: The progress that the job has reported since it was last taken; only the last one is stored.
    progress: list[Progress] = field(default_factory=list)
    core_errors: tuple[BaseException, ...] = ()
    connected: bool = False
    #: The error after which it is unknown whether the completion was committed; the function may have caught it.
    unsure: BaseException | None = None
    log: list[str] = field(default_factory=list)
    log_bytes: int = 0
    #: Removes the job's secrets from its texts; None if it has no secrets.
    scrub: Scrub | None = field(init=False)
    #: After how long an error is raised inside the function, in seconds.
    warn_s: float = field(init=False)
    #: After how long its process is ended; None: some time after the error was raised.
    end_s: float | None = field(init=False)
    #: Makes the error that is raised inside the function.
    too_late: Callable[[], BaseException] = field(init=False)

    def __post_init__(self) -> None:
        self.scrub = scrubber(self.job.type, self.job.params)
        if self.job.message is None:
            self.limit(self.job.timeout_s, None, self._late)
        else:  # a task's limits are in its message
            self.limit(math.inf, math.inf, self._late)

    def limit(self, warn_s: float, end_s: float | None, too_late: Callable[[], BaseException]) -> None:
        """Set the time limits of this attempt."""
        self.warn_s, self.end_s, self.too_late = warn_s, end_s, too_late

    def _late(self) -> BaseException:
        return TimeLimitExceeded(f"the time limit of {self.job.timeout_s:g} s has passed")

    @property
    def mine(self) -> tuple[UUID, int]:
        return self.job.id, self.job.attempt

    @property
    def has_completed(self) -> bool:
        """Whether a completion has ended the job, or may have: then nothing here writes its row."""
        return self.phase in (Phase.COMPLETING, Phase.DONE)

    def start(self) -> None:
        self.started = time.monotonic()
        self.phase = Phase.RUNNING

    def begin_commit(self) -> None:
        self.phase = Phase.COMPLETING

    def end_commit(self, *, committed: bool) -> None:
        """Note how a completion ended; one that was rolled back before its commit began has not changed the phase."""
        if committed:
            self.phase = Phase.DONE
        elif self.phase is Phase.COMPLETING:
            self.phase = Phase.RUNNING

    def lose(self) -> None:
        """Note that another attempt owns the job, unless its own completion is why it no longer runs on the server."""
        if self.phase in (Phase.WAITING, Phase.RUNNING):
            self.phase = Phase.LOST

    def end_with(self, outcome: Ending | None) -> None:
        """Keep the outcome for the completer, unless a completion has recorded it already."""
        self.outcome = None if self.has_completed else outcome
        self.phase = Phase.DONE

    def say(self, line: str) -> None:
        """Keep a line of the log, up to 1 MiB for an attempt; the line that exceeds this is cut."""
        room = LOG_MAX - self.log_bytes
        if room < 0:
            return
        line = self.scrub(line) if self.scrub else line
        written = line.encode(errors="replace")
        self.log_bytes += len(written)
        self.log.append(line if len(written) <= room else written[:room].decode(errors="ignore") + CUT)

    def take_log(self) -> str:
        return "".join(_taken(self.log))

    def take_progress(self) -> Progress | None:
        """Return the last reported progress; None if there is none, or if the completion has made it final."""
        if self.has_completed and self.outcome is None:
            return None
        told = _taken(self.progress)
        return told[-1] if told else None


def _taken(said: list[T]) -> list[T]:
    """Remove and return the items. The list stays the same object, because the job's thread may be adding to it."""
    there = said[:]
    del said[: len(there)]
    return there


@dataclass(slots=True)
class Pending:
    """Everything to write now, taken out of the held jobs together. A job whose outcome is written has no `outcome`."""

    over: list[Held]
    logs: list[tuple[Held, str]]
    progress: list[tuple[Held, Progress]]

    def __bool__(self) -> bool:
        return bool(self.over or self.logs or self.progress)


class HeldJobs:
    """The jobs of one pool process; safe for its two threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = 0.0
        self.running: Held | None = None
        self._waiting: deque[Held] = deque()
        self._over: list[Held] = []

    def begin(self, claimed: Sequence[Claimed]) -> None:
        self.began = time.monotonic()
        with self.lock:
            self._waiting.extend(Held(job, self.began, cancelled=job.cancelled) for job in claimed)

    def take(self) -> Held | None:
        """Return the next job to run, and mark it as started."""
        with self.lock:
            self.running = self._waiting.popleft() if self._waiting else None
            if self.running is not None:
                self.running.start()
            return self.running

    def end(self, held: Held, outcome: Ending | None) -> None:
        """End the job that was taken; without an outcome, only its log is left to write."""
        with self.lock:
            self.running = None
            held.end_with(outcome)
            if held.outcome is not None or held.log:
                self._over.append(held)

    def hand_back_waiting(self) -> None:
        """Hand back all jobs that have not started yet."""
        with self.lock:
            for held in self._waiting:
                held.end_with(HandBack())
            self._over.extend(self._waiting)
            self._waiting.clear()

    def lose(self, lost: Sequence[Held]) -> None:
        """Note that other attempts own these jobs now: forget those that wait; the running one notices by itself."""
        with self.lock:
            for held in lost:
                held.lose()
            self._waiting = deque(held for held in self._waiting if held.phase is Phase.WAITING)

    def leased(self) -> list[Held]:
        """Return the jobs whose leases are extended, and a lost one that still runs: its row contains the reason."""
        with self.lock:
            running = [self.running] if self.running and not self.running.has_completed else []
            return [*running, *self._waiting, *(held for held in self._over if held.outcome is not None)]

    def busy(self) -> bool:
        """Return whether a job waits, runs or must be written; a function still has limits after its completion."""
        return bool(self.running is not None or self._waiting or self._over)

    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def pending(self) -> bool:
        return bool(self._over)

    def collect(self, *, running_too: bool) -> Pending:
        """Take out everything that is to be written; `running_too`: the running job's log and progress as well."""
        with self.lock:
            over, self._over = self._over, []
            running = [self.running] if self.running and running_too else []
            logs, progress = [], []
            for held in [*over, *running]:
                if held.log and (lines := held.take_log()):
                    logs.append((held, lines))
                if held.progress and (told := held.take_progress()):
                    progress.append((held, told))
            return Pending(over, logs, progress)

    def put_back(self, pending: Pending) -> None:
        """Put back everything that could not be written, before what was added since; it is written the next time."""
        with self.lock:
            for held, text in pending.logs:
                held.log.insert(0, text)
            for held, told in pending.progress:
                held.progress.insert(0, told)
            self._over[:0] = [held for held in pending.over if held.outcome is not None or held.log]
