"""What one pool process holds: jobs that wait their turn, the one that runs, and outcomes not yet written.

The main thread takes and ends jobs; the heartbeat thread hands back, extends and writes. One lock keeps "take the next"
and "hand back what has not started" apart. No database here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from uuid import UUID

from esteira.record.claim import Claimed
from esteira.record.finish import Break, Outcome
from esteira.runner.scrub import Scrub, scrubber

T = TypeVar("T")
#: Done, of how many, and a text.
Progress = tuple[float, float | None, str]

#: What an attempt may log, in bytes of UTF-8.
LOG_MAX = 1024 * 1024
CUT = "\n[the rest was cut: an attempt keeps 1 MiB of its log]\n"


class Phase(Enum):
    """How far a claimed job has come in this process."""

    WAITING = "claimed; its turn has not come"
    RUNNING = "its function runs"
    COMPLETING = "its completion is written, and the commit is under way: it may have ended already"
    DONE = "it is over: by a committed completion, after which its function may still run, or by its outcome"
    LOST = "another attempt owns it; its function may still run"


@dataclass(frozen=True, slots=True)
class HandBack:
    """The end of an attempt that counts nothing: it has not started, or its process was told to stop."""


#: How an attempt ends here, if it is left to the completer to write.
Ending = Outcome | Break | HandBack


@dataclass(eq=False, slots=True)
class Held:
    """A claimed job while this process has it. Times are the process's monotonic clock, for offsets only.

    A completion changes `phase` without the lock, because it runs inside the function: a child that the job forks would
    inherit the lock as the heartbeat holds it. That is safe: the heartbeat sets only LOST, after the server gave the
    job to another attempt, and then the server refuses the completion before COMPLETING.
    """

    job: Claimed
    claimed: float
    phase: Phase = Phase.WAITING
    #: How it ended, until that is written.
    outcome: Ending | None = None
    #: Somebody asked for a cancel, and since when by force: that may happen in any phase, and changes none by itself.
    cancelled: bool = False
    forced: float | None = None
    has_files: bool = False
    started: float | None = None
    #: What the job has said of its progress since that was taken: the last one counts.
    progress: list[Progress] = field(default_factory=list)
    core_errors: tuple[BaseException, ...] = ()
    connected: bool = False
    #: What left its completion in doubt; the function may have caught it, and run on.
    unsure: BaseException | None = None
    log: list[str] = field(default_factory=list)
    log_bytes: int = 0
    #: Takes the job's secrets out of what it says; None if it was given none.
    scrub: Scrub | None = field(init=False)

    def __post_init__(self) -> None:
        self.scrub = scrubber(self.job.type, self.job.params)

    @property
    def mine(self) -> tuple[UUID, int]:
        return self.job.id, self.job.attempt

    @property
    def has_completed(self) -> bool:
        """Whether a completion has ended it, or may have: then nothing here writes its row."""
        return self.phase in (Phase.COMPLETING, Phase.DONE)

    def start(self) -> None:
        self.started = time.monotonic()
        self.phase = Phase.RUNNING

    def begin_commit(self) -> None:
        self.phase = Phase.COMPLETING

    def end_commit(self, *, committed: bool) -> None:
        """Note how a completion went; one that was rolled back before its commit began has changed no phase."""
        if committed:
            self.phase = Phase.DONE
        elif self.phase is Phase.COMPLETING:
            self.phase = Phase.RUNNING

    def lose(self) -> None:
        """Another attempt owns it, unless its own completion is why the server no longer counts it as running."""
        if self.phase in (Phase.WAITING, Phase.RUNNING):
            self.phase = Phase.LOST

    def end_with(self, outcome: Ending | None) -> None:
        """Keep the outcome for the completer; a completion has recorded its own already."""
        self.outcome = None if self.has_completed else outcome
        self.phase = Phase.DONE

    def say(self, line: str) -> None:
        """Keep a line of the log, up to 1 MiB an attempt; of the line that goes beyond it, its beginning."""
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
        """Return what the job said last; None if it said nothing, or if its completion has fixed its progress."""
        if self.has_completed and self.outcome is None:
            return None
        told = _taken(self.progress)
        return told[-1] if told else None


def _taken(said: list[T]) -> list[T]:
    """Take out what is there. The list stays the same one, because the job's thread may be adding to it."""
    there = said[:]
    del said[: len(there)]
    return there


@dataclass(slots=True)
class Pending:
    """What is to be written now, taken out of the held jobs at once. What is written has no `outcome` any more."""

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
        """Return the next job to run; it counts as started."""
        with self.lock:
            self.running = self._waiting.popleft() if self._waiting else None
            if self.running is not None:
                self.running.start()
            return self.running

    def end(self, held: Held, outcome: Ending | None) -> None:
        """The job that was taken is over; without an outcome there is nothing left to write but its log."""
        with self.lock:
            self.running = None
            held.end_with(outcome)
            if held.outcome is not None or held.log:
                self._over.append(held)

    def hand_back_waiting(self) -> None:
        """Nothing that has not started yet will start here."""
        with self.lock:
            for held in self._waiting:
                held.end_with(HandBack())
            self._over.extend(self._waiting)
            self._waiting.clear()

    def lose(self, lost: Sequence[Held]) -> None:
        """Other attempts own these jobs now: forget those that wait; the running one notices by itself."""
        with self.lock:
            for held in lost:
                held.lose()
            self._waiting = deque(held for held in self._waiting if held.phase is Phase.WAITING)

    def leased(self) -> list[Held]:
        """Everything whose lease is ours to extend; a lost one that still runs included, whose row tells why."""
        with self.lock:
            running = [self.running] if self.running and not self.running.has_completed else []
            return [*running, *self._waiting, *(held for held in self._over if held.outcome is not None)]

    def busy(self) -> bool:
        """Whether anything waits, runs or is to be written; what runs after its completion has limits as well."""
        return bool(self.running is not None or self._waiting or self._over)

    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def pending(self) -> bool:
        return bool(self._over)

    def collect(self, *, running_too: bool) -> Pending:
        """Take out what is to be written; `running_too`: the running job's log and progress as well."""
        with self.lock:
            over, self._over = self._over, []
            running = [self.running] if self.running and running_too else []
            logs, progress = [], []
            for held in [*over, *running]:
                if lines := held.take_log():
                    logs.append((held, lines))
                if told := held.take_progress():
                    progress.append((held, told))
            return Pending(over, logs, progress)

    def put_back(self, pending: Pending) -> None:
        """What could not be written waits for the next time, before what came since."""
        with self.lock:
            for held, text in pending.logs:
                held.log.insert(0, text)
            for held, told in pending.progress:
                held.progress.insert(0, told)
            self._over[:0] = [held for held in pending.over if held.outcome is not None or held.log]
