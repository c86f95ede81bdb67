"""How a worker stops: it drains or hands back its jobs, marks itself as gone, and ends within a limit in every case.

A warm stop gives running jobs DRAIN_SECONDS to finish; the jobs that still run then go back to the queue (they are
handed back). A cold stop hands back at once. Neither counts as a try of a job. During the stop, one thread reports that
the process is alive and enforces the limit, while Celery's own code waits for the pool. If the process dies here, the
leases of its jobs end.

Celery's handlers for SIGQUIT and a second Ctrl-C end the pool with SIGTERM, in the middle of its jobs, and wait for it
without a limit inside the handler. Its handler for SIGHUP and its remote `shutdown` have no limit either. So Esteira's
handlers replace them.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from billiard import active_children
from billiard.common import REMAP_SIGTERM
from celery.platforms import EX_FAILURE, EX_OK, close_open_fds
from celery.worker import state as celery_state
from django.conf import settings

from esteira import liveness
from esteira.db import ConnectionLost, Db, briefly
from esteira.liveness import ANNOUNCE_S
from esteira.record import rescue
from esteira.worker import identity
from esteira.worker.presence import Presence

log = logging.getLogger("esteira.worker")

TOUCH_S = 1.0
TURN_S = 0.1
#: How long to wait for killed pool processes, so that none of them claims a job after the hand-back.
REAP_S = 1.0
#: How long the server may take to notice that a client was killed, and to release its row locks.
LOCKED_S = 0.3


_current: Stop | None = None


def watch(stop: Stop) -> None:
    """Register the stop of this process."""
    global _current
    _current = stop


def watched() -> bool:
    """Return whether this process is a worker that has registered its stop."""
    return _current is not None


def current() -> Stop:
    assert _current is not None, "a worker is watched before it starts"
    return _current


def begun() -> bool:
    return _current is not None and _current.begun


def ending() -> bool:
    """Return whether all jobs of this worker are being handed back; from then on no pool process is judged."""
    return _current is not None and _current.ending


class Stop:
    """One worker's stop. Signal handlers call it, so beginning a stop takes no lock."""

    def __init__(self, controller: Any, presence: Presence) -> None:
        self._controller, self._presence = controller, presence
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._deadline = float("inf")
        self._why, self._seconds = "", 0.0
        #: Two flags, each of which is set once: a signal may arrive while the handler of another one runs.
        self._hung_up = self._for_good = False
        self._exit_code = EX_OK
        #: Held while the worker marks itself as gone: Celery's thread must not end the process during the hand-back.
        self._last_word = threading.Lock()
        self._said_goodbye = False
        self.ending = False

    @property
    def begun(self) -> bool:
        return self._thread is not None

    def handle_signals(self) -> None:
        """Replace Celery's signal handlers."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGQUIT, self._on_quit)
        signal.signal(signal.SIGHUP, self._on_hang_up)

    def warm(self, why: str) -> None:
        """Take no more work, and give running jobs their time; if they finish earlier, Celery ends the process."""
        self._begin(why, settings.DRAIN_SECONDS)
        _let_celery_stop()

    def cold(self, why: str) -> None:
        """Hand back at once; Celery is stopped too, so that it forks no process in place of the killed ones."""
        self._begin(why, 0.0)
        _let_celery_stop()

    def begin(self) -> None:
        """Enforce the limit on a stop that Celery has begun itself."""
        self._begin("Celery", settings.DRAIN_SECONDS)

    def at_once(self) -> NoReturn:
        """Hand back and end the process, from the main thread, because Celery gives up."""
        self._exit_code = EX_FAILURE
        self._begin("Celery gives up", 0.0)
        self._end()

    def goodbye(self) -> None:
        """Mark the worker as gone after an orderly end; wait for a hand-back that runs at the same time."""
        with self._last_word:
            self._said_goodbye = True
            identity.say_goodbye(self._presence.identity)

    def _on_term(self, *_: Any) -> None:
        self._for_good = True
        if REMAP_SIGTERM == "SIGQUIT":
            self.cold("SIGTERM, configured as SIGQUIT")
        else:
            self.warm("SIGTERM")

    def _on_quit(self, *_: Any) -> None:
        self._for_good = True
        self.cold("SIGQUIT")

    def _on_interrupt(self, *_: Any) -> None:
        self._for_good = True
        if self.begun:
            self.cold("SIGINT during a stop")
        else:
            self.warm("SIGINT; a second one hands back at once")

    def _on_hang_up(self, *_: Any) -> None:
        """Restart, as Celery does; but a closed terminal, or a second signal from systemd, ends the worker."""
        if not self.begun and not _has_terminal():
            self._hung_up = True
            atexit.register(self._start_again)
        self.warm("SIGHUP")

    def _begin(self, why: str, seconds: float) -> None:
        if os.getpid() != self._pid:
            return  # a newly forked pool process still has these handlers; its parent ends it
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._keep_time, name="esteira-stop", daemon=True)
        self._why, self._seconds = why, seconds
        with suppress(OSError):
            liveness.untouch("worker", "ready")
        self._thread.start()

    def _keep_time(self) -> None:
        # Logged here and not in the signal handler, which may have interrupted another log line.
        log.warning("stopping (%s): running jobs have %g s to finish", self._why, self._seconds)
        signs = {self._touch: TOUCH_S, self._announce: ANNOUNCE_S}
        due = {self._touch: float("-inf"), self._announce: time.monotonic() + ANNOUNCE_S}
        while (now := time.monotonic()) < self._deadline:
            for sign, pause in signs.items():
                if now >= due[sign]:
                    due[sign] = now + pause
                    try:
                        sign()
                    except Exception as error:  # for any error, the limit must still be enforced
                        log.warning("stopping: a heartbeat failed: %r", error)
            time.sleep(TURN_S)
        self._end()

    def _touch(self) -> None:
        liveness.touch("worker")

    def _announce(self) -> None:
        with self._last_word:
            if not self._said_goodbye:
                self._presence.announce()

    def _end(self) -> NoReturn:
        self.ending = True
        with self._last_word:
            try:
                _end_pool()
                if not self._said_goodbye:
                    self._hand_over()
            except Exception:  # for any error, the process must end
                log.exception("handing back failed; the leases of this worker's jobs will end by themselves")
            self._leave()

    def _hand_over(self) -> None:
        me = self._presence.identity
        try:
            with briefly("worker drain") as db:
                log.warning("handed back %s jobs to other workers", _hand_back(db, me.full))
        except ConnectionLost as error:
            log.warning("the database is unavailable (%s); the leases of this worker's jobs will end", error)
        identity.say_goodbye(me)

    def _leave(self) -> NoReturn:
        """End this process without Celery, which waits for its pool without a limit."""
        with suppress(Exception):  # for any error with the pid file, the process must end
            if self._controller.pidlock:
                self._controller.pidlock.release()
        self._start_again()
        os._exit(self._exit_code)

    def _start_again(self) -> None:
        """Replace this process by a new worker if that was requested, with the original command line."""
        if self._hung_up and not self._for_good and os.getpid() == self._pid:
            close_open_fds({0, 1, 2})
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 — Esteira's own command line


def _let_celery_stop() -> None:
    if celery_state.should_stop is None:
        celery_state.should_stop = EX_OK  # type: ignore[assignment]  # its published type is that of its first value


def _hand_back(db: Db, me: str) -> int:
    """Hand back twice: a process that was killed while it wrote an outcome still locks its row for a moment."""
    handed = len(rescue.drained(db, me=me))
    time.sleep(LOCKED_S)
    return handed + len(rescue.drained(db, me=me))


def _end_pool() -> None:
    """Kill the pool processes and wait a moment: one that still runs could claim a job after the hand-back."""
    deadline = time.monotonic() + REAP_S
    pids = [one.pid for one in active_children() if one.pid]
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)  # and the programs that its job has started
            else:
                os.kill(pid, signal.SIGKILL)
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(TURN_S / 10)


def _runs(pid: int) -> bool:
    return bool(identity.start_time(pid).strip("?"))


def _has_terminal() -> bool:
    return sys.__stdout__ is not None and sys.__stdout__.isatty()
