"""What one pool process holds: jobs that wait their turn, the one that runs, and ends not yet written.

The main thread takes and ends jobs; the heartbeat thread hands back, extends and writes. One lock keeps "take the next"
and "hand back what has not started" apart. No database here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from esteira.record.claim import Claimed
from esteira.record.finish import Break, Outcome
from esteira.runner.scrub import Scrub, scrubber

#: What an attempt may log, in bytes of UTF-8.
LOG_MAX = 1024 * 1024
CUT = "\n[the rest was cut: an attempt keeps 1 MiB of its log]\n"


@dataclass(eq=False, slots=True)
class Held:
    """A claimed job while this process has it. Times are the process's monotonic clock, for offsets only."""

    job: Claimed
    claimed: float
    cancelled: bool = False
    lost: bool = False
    completed: bool = False
    has_files: bool = False
    started: float | None = None
    told_start: bool = False
    warned: bool = False
    forced: float | None = None
    progress: tuple[float, float | None, str] | None = None
    core_errors: tuple[BaseException, ...] = ()
    connected: bool = False
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

    def say(self, line: str) -> None:
        """Keep a line of the log, up to 1 MiB an attempt; of the line that goes beyond it, its beginning."""
        room = LOG_MAX - self.log_bytes
        if room < 0:
            return
        line = self.scrub(line) if self.scrub else line
        written = line.encode(errors="replace")
        self.log_bytes += len(written)
        self.log.append(line if len(written) <= room else written[:room].decode(errors="ignore") + CUT)


@dataclass(slots=True)
class Pending:
    """What is to be written now, taken out of the held jobs at once."""

    ended: list[tuple[Held, Outcome]]
    returning: list[Held]
    broken: list[tuple[Held, Break]]
    logs: list[tuple[Held, str]]
    progress: list[tuple[Held, tuple[float, float | None, str]]]

    def __bool__(self) -> bool:
        return bool(self.ended or self.returning or self.broken or self.logs or self.progress)


class HeldJobs:
    """The jobs of one pool process; safe for its two threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = 0.0
        self.running: Held | None = None
        self._waiting: deque[Held] = deque()
        self._ended: list[tuple[Held, Outcome]] = []
        self._returning: list[Held] = []
        self._broken: list[tuple[Held, Break]] = []
        self._silent: list[Held] = []

    def begin(self, claimed: Sequence[Claimed]) -> None:
        self.began = time.monotonic()
        with self.lock:
            self._waiting.extend(Held(job, self.began, cancelled=job.cancelled) for job in claimed)

    def take(self) -> Held | None:
        """Return the next job to run; it counts as started."""
        with self.lock:
            self.running = self._waiting.popleft() if self._waiting else None
            if self.running is not None:
                self.running.started = time.monotonic()
            return self.running

    def end(self, held: Held, outcome: Outcome | None) -> None:
        """The running job is over; without an outcome there is nothing left to write but what it said."""
        with self.lock:
            self.running = None
            if outcome is not None:
                self._ended.append((held, outcome))
            elif held.log:
                self._silent.append(held)

    def break_off(self, held: Held, cause: Break) -> None:
        """The running job goes back to the queue although it has started: that is counted."""
        with self.lock:
            self.running = None
            self._broken.append((held, cause))

    def hand_back_waiting(self) -> None:
        """Nothing that has not started yet will start here."""
        with self.lock:
            self._returning.extend(self._waiting)
            self._waiting.clear()

    def hand_back_all(self, cause: Break | None) -> None:
        """Nothing is run here any more, not even what was running; without a cause, nothing is counted against it."""
        with self.lock:
            running, self.running = self.running, None
            if running and not running.completed:
                if cause is None:
                    self._returning.append(running)
                else:
                    self._broken.append((running, cause))
        self.hand_back_waiting()

    def drop_lost(self) -> None:
        """Forget jobs that other attempts own now; the running one notices by itself."""
        with self.lock:
            self._waiting = deque(held for held in self._waiting if not held.lost)

    def held(self) -> list[Held]:
        """Everything whose lease is ours to extend."""
        with self.lock:
            running = [self.running] if self.running and not self.running.completed else []
            over = (held for held, _ in [*self._ended, *self._broken])
            return [*running, *self._waiting, *self._returning, *over]

    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def pending(self) -> bool:
        return bool(self._ended or self._returning or self._broken or self._silent)

    def collect(self, *, running_too: bool) -> Pending:
        """Take out what is to be written; `running_too`: the running job's log and progress as well."""
        with self.lock:
            ended, self._ended = self._ended, []
            returning, self._returning = self._returning, []
            broken, self._broken = self._broken, []
            silent, self._silent = self._silent, []
            talkers = [*silent, *(held for held, _ in [*ended, *broken])]
            talkers += [self.running] if self.running and running_too else []
            logs, progress = [], []
            for held in talkers:
                if held.log:
                    lines, held.log = held.log, []
                    logs.append((held, "".join(lines)))
                if held.progress is not None:
                    progress.append((held, held.progress))
                    held.progress = None
            return Pending(ended, returning, broken, logs, progress)

    def put_back(self, pending: Pending) -> None:
        """What could not be written waits for the next time, before what came since."""
        with self.lock:
            self._ended[:0] = pending.ended
            self._returning[:0] = pending.returning
            self._broken[:0] = pending.broken
            over = {id(held) for held, _ in [*pending.ended, *pending.broken]} | {id(self.running)}
            self._silent[:0] = [held for held, _ in pending.logs if id(held) not in over]
            for held, text in pending.logs:
                held.log.insert(0, text)
            for held, told in pending.progress:
                held.progress = held.progress or told
