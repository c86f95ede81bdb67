"""A pool process in the operating system: its signals, its parent, its group, and children that a job has forked.

A service manager such as systemd may signal all processes of a worker at once. A pool process that runs a hint ignores
such a stop: its parent ends it after the drain, and it ends at once if the parent dies. It leads a process group, so
that a process that is ended by force takes the programs started by its job with it; programs that a job leaves running
when it returns are left alone. A child that a job forks ends where it would return to the core: it has the parent's
memory, but not its threads, and must not use its connections.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the conversion to enumerations, which takes far longer
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # newer than its published types

T = TypeVar("T")

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: SIGUSR1 is Celery's soft time limit, which hints do not use: it would raise an error at any line of the core.
REFUSED = (*STOPS, signal.SIGUSR1)
#: The exit codes of billiard's signal handler in a pool process that received a signal to stop.
STOPPED = tuple(one - 256 for one in (*STOPS, signal.SIGINT))

handler_of: Callable[[int], Any] = _signal.getsignal

# A process has one parent, one set of signal handlers and one hook at a fork, and the system calls them without an
# object, so their state is global. All other state of the runner is passed as arguments.
_parent: int | None = None
_forked = _busy = _asked = False
_before: dict[int, Any] = {}
_forgets: list[Callable[[], None]] = []


class Leave(SystemExit):
    """Ends a pool process cleanly: its hint is finished, and all jobs that it held are written or handed back."""


def remember_parent() -> None:
    """Store that this process is the parent: its pool processes end with it."""
    global _parent
    _parent = os.getpid()


def own(forget: Callable[[], None]) -> None:
    """Make this process the owner of its connections; a forked child forgets them, also by calling `forget`."""
    global _forked
    if not _forgets:
        os.register_at_fork(after_in_child=_disinherit)
    _forked = False
    _forgets[:] = [forget]


def lead_group() -> None:
    """Make this process the leader of a new process group."""
    with suppress(OSError):  # the leader of a session already leads a group
        os.setpgid(0, 0)
    end_if_orphaned()


def end_if_orphaned() -> None:
    """End this process if its parent is gone, and the system has not ended it: the parent may have died early."""
    if _parent is not None and not _forked and os.getppid() != _parent:
        end_by_force()


def end_by_force() -> NoReturn:
    """End this process at once, together with the programs that its job has started."""
    pid = os.getpid()
    end_group(pid)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("unreachable")


def end_group(leader: int) -> None:
    """End the remaining processes of a group whose leader is, or was, a pool process."""
    with suppress(OSError):  # the group is empty, or the process is in its parent's group
        os.killpg(leader, signal.SIGKILL)


@contextmanager
def busy() -> Iterator[None]:
    """Ignore signals to stop inside this block; a process that received one ends cleanly afterwards."""
    global _busy, _asked
    _guard_signals()
    _busy = True
    try:
        yield
    finally:
        _busy = False
    if _asked:
        _asked = False
        raise Leave(0)


def asked_to_stop() -> bool:
    """Return whether this process has received a signal to stop, and ends after its hint."""
    return _asked


def leave_if_told(error: BaseException) -> None:
    """End this process if a signal raised the error inside the job: such an error is not the job's failure.

    After a signal to stop, the error is raised again, and the held jobs are handed back. Any other signal (a limit of
    processor time, an unhandled alarm) counts as a crash: it may occur again whenever this job runs.
    """
    if not terminate_handler_fired():
        return
    if isinstance(error, SystemExit) and error.code not in STOPPED:
        os.kill(os.getpid(), signal.SIGKILL)
    raise error


def leave_if_forked(error: BaseException | None = None) -> None:
    """End a child that a job has forked, at the place where it would return to the core."""
    if not _forked:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the job may have replaced the stream
            stream.flush()
    os._exit(code)


def guarded(function: Callable[..., T], *arguments: Any) -> T:
    """Call code of a job; a child that it forks ends where it would return from here."""
    try:
        value = function(*arguments)
    except BaseException as error:
        leave_if_forked(error)
        raise
    leave_if_forked()
    return value


def _guard_signals() -> None:
    """Replace Celery's signal handlers, which Celery installs after its signal that the process begins.

    Programs that a job starts do not inherit a handler, as they would inherit an ignored signal: they can be stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in REFUSED:
        current = handler_of(number)
        if (
            current is not _on_signal and current != signal.SIG_IGN
        ):  # a plain number, so it is not the same object
            _before[number] = current
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Ignore a signal while a hint runs; an idle process handles it as Celery does, which shrinks its pool this way."""
    global _asked
    if _busy:
        _asked = _asked or number in STOPS
        return
    before = _before.get(number)
    if callable(before):
        before(number, frame)
    elif before == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _disinherit() -> None:
    """Prepare a forked child: signals end it again, and it forgets all connections."""
    global _forked
    if _forked:
        return
    _forked = True
    for number in (*REFUSED, signal.SIGUSR2):
        with suppress(ValueError, OSError):
            signal.signal(number, signal.SIG_DFL)
    for forget in _forgets:
        forget()
