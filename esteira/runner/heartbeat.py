"""The heartbeat of a pool process: one thread that extends its leases, writes its outcomes and enforces its limits.

It runs every 50 ms while jobs are short or something waits to be written, less often while one long job runs, and stops
while there is no job. It uses only the core's private connection, so it never interferes with a job's own transaction.
While the database is unavailable, it retries: nothing is forgotten, and the next heartbeat finds the lost leases.

Each heartbeat extends leases before it writes, so that no job loses its lease because a write has to wait.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import suppress

from django.conf import settings

from esteira.db import BUSY, ConnectionLost, PrivateConnection
from esteira.job_types.registry import HARD_AFTER_S, registry
from esteira.record import lease, telling
from esteira.runner.completer import Completer
from esteira.runner.held import HandBack, Held, HeldJobs, Phase
from esteira.runner.interrupt import Interrupt
from esteira.runner.outcome import timed_out
from esteira.runner.pool_process import end_by_force, end_if_orphaned
from esteira.stats import Stats

log = logging.getLogger("esteira.runner")

BEAT_S, SLOW_BEAT_S = 0.05, 0.25
#: Jobs that have not started this long after the claim are handed back: a batch must not wait behind a long job.
WAITING_MAX_S = 0.25
STATS_S = 5.0
#: The pause between two tries while the database is unavailable.
AWAY_PAUSE_S = 0.5
EXTENSIONS_PER_LEASE = 4
#: How many waits for a lock fit into a lease: during a longer wait the heartbeat could not extend leases in time.
LOCK_WAITS_PER_LEASE = 8
#: How long a process that must end waits for locked rows of jobs that have ended.
LOCKED_PATIENCE_S = 30.0


def lock_timeout_s() -> float:
    """Return how long a statement of a pool process may wait for a lock; the shortest lease of any type decides."""
    leases = [
        settings.ESTEIRA_LEASE_SECONDS,
        *(job_type.lease_s for job_type in registry.all() if job_type.lease_s),
    ]
    return float(min(leases)) / LOCK_WAITS_PER_LEASE


class Heartbeat(threading.Thread):
    """One per pool process, from its start to its end."""

    def __init__(
        self,
        core: PrivateConnection,
        held_jobs: HeldJobs,
        completer: Completer,
        stats: Stats,
        interrupt: Interrupt,
    ) -> None:
        super().__init__(name="esteira-heartbeat", daemon=True)
        self._core, self._held_jobs, self._completer = core, held_jobs, completer
        self._stats, self._interrupt = stats, interrupt
        self._wake = threading.Event()
        self._resting = True
        self._extended = self._told = self._counted = 0.0
        #: The last job that was warned of its limit, and the last one whose start is stored: one runs at a time.
        self._warned: Held | None = None
        self._told_start: Held | None = None

    def beat(self) -> None:
        """Wake the heartbeat thread because there is work; costs nothing while it is awake."""
        if self._resting:
            self._extended = time.monotonic()
            self._wake.set()

    def run(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            try:
                self._turn()
            except BUSY as error:
                log.warning("another transaction holds a lock (%s); trying again", type(error).__name__)
                time.sleep(SLOW_BEAT_S)
            except ConnectionLost as error:
                log.warning("the database is unavailable (%s); trying again", type(error).__name__)
                time.sleep(AWAY_PAUSE_S)
            except Exception:
                log.exception("a turn of the heartbeat failed; the thread continues")
                time.sleep(AWAY_PAUSE_S)

    def _pause(self) -> float | None:
        """Return the seconds until the next turn; None means to wait for a call of `beat`."""
        # Set before the check: a thread that brings work after the check sees it, and wakes this one.
        self._resting = True
        young = time.monotonic() - self._held_jobs.began < 1.0
        self._resting = not (young or self._held_jobs.busy())
        if self._resting:
            return STATS_S if self._stats else None
        return BEAT_S if young or self._held_jobs.pending() else SLOW_BEAT_S

    def _turn(self) -> None:
        end_if_orphaned()
        now = time.monotonic()
        self._warn(now)
        self._extend(now)
        self._limit(now)
        if self._held_jobs.has_waiting() and now - self._held_jobs.began > WAITING_MAX_S:
            self._held_jobs.hand_back_waiting()
        self._tell_start(now)
        tell_running = now - self._told >= SLOW_BEAT_S
        if tell_running:
            self._told = now
        self._completer.flush(running_too=tell_running)
        if now - self._counted >= STATS_S or self._stats.awaited():
            self._counted = now
            self._stats.flush(self._core)

    def _tell_start(self, now: float) -> None:
        held = self._held_jobs.running
        if held is None or held is self._told_start or held.phase is not Phase.RUNNING or not held.started:
            return
        if now - held.started >= BEAT_S and telling.start(
            self._core, *held.mine, held.started - held.claimed
        ):
            self._told_start = held

    def _extend(self, now: float) -> None:
        with self._core.lock:
            held = self._held_jobs.leased()
            if not held:
                self._extended = now
                return
            if now - self._extended < min(one.job.lease_s for one in held) / EXTENSIONS_PER_LEASE:
                return
            still = lease.extend(self._core, [one.mine for one in held])
            self._extended = now
        self._held_jobs.lose([one for one in held if one.job.id not in still])
        for one in held:
            one.cancelled = one.cancelled or still.get(one.job.id, (False, False))[0]
        if (running := self._held_jobs.running) is None:
            return
        if still.get(running.job.id, (False, False))[1]:
            running.forced = running.forced or now
            self._cancel_by_force(running, now)
        if running.phase is Phase.LOST:
            self._end_if_killed(running, now)

    def _warn(self, now: float) -> None:
        """Raise an error inside the function; after its completion this ends the function and changes nothing else."""
        held = self._held_jobs.running
        if held and held is not self._warned and _ran(held, now) >= held.warn_s:
            self._warned = held
            self._interrupt.send(held, held.too_late())

    def _limit(self, now: float) -> None:
        """End a process whose job ignores its limit; if its commit may be in progress, wait twice as long before."""
        held = self._held_jobs.running
        if held and _ran(held, now) >= _end_s(held) + (HARD_AFTER_S if held.has_completed else 0):
            self._end_by_force(held, now)

    def _end_by_force(self, held: Held, now: float) -> None:
        """End the process at a hard time limit; only this job fails, the others of its hint run elsewhere, alone.

        A job that has completed or lost its lease has no outcome to write; its process is ended nevertheless.
        """
        self._completer.flush(running_too=True)
        if self._others_wait(_ran(held, now) - _end_s(held)):
            return
        state = None
        if not held.has_completed:
            outcome = timed_out(held, _ran(held, now))
            state = self._completer.record([outcome]).get(held.job.id)
        if state == "running" or (state is None and self._held_jobs.running is not held):
            return  # the row is locked, or the job has ended by itself meanwhile
        log.warning("job %s (%s) ignored its time limit; its process is ended", held.job.id, held.job.type)
        self._leave()

    def _cancel_by_force(self, held: Held, now: float) -> None:
        self._completer.flush(running_too=True)
        if self._others_wait(now - (held.forced or now)):
            return
        if lease.kill(self._core, *held.mine):
            log.warning("job %s (%s) is cancelled by force; its process is ended", held.job.id, held.job.type)
            self._leave()

    def _end_if_killed(self, held: Held, now: float) -> None:
        """End the process of a job cancelled by force, if the answer was lost or another process wrote the cancel."""
        if not telling.was_killed(self._core, *held.mine):
            return
        held.forced = held.forced or now
        self._completer.flush(running_too=True)
        if not self._others_wait(now - held.forced):
            log.warning(
                "job %s (%s) was cancelled by force; its process is ended", held.job.id, held.job.type
            )
            self._leave()

    def _others_wait(self, since_s: float) -> bool:
        """Return whether outcomes still wait for locked rows: they are written before this process ends."""
        return self._held_jobs.pending() and since_s < LOCKED_PATIENCE_S

    def _leave(self) -> None:
        self._held_jobs.hand_back_waiting()
        over = self._held_jobs.collect(running_too=False).over
        waiting = [one.mine for one in over if isinstance(one.outcome, HandBack)]
        with suppress(*ConnectionLost):  # without a database, their leases end
            lease.hand_back(self._core, waiting, solo=True)
        end_by_force()


def _ran(held: Held, now: float) -> float:
    """Return for how many seconds a job has run."""
    return now - held.started if held.started is not None else -math.inf


def _end_s(held: Held) -> float:
    """Return after how many seconds a job's process is ended."""
    return held.warn_s + HARD_AFTER_S if held.end_s is None else held.end_s
