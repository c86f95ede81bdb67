"""A pool process as the system sees it: its signals, its parent, its group, and children that it did not mean to have.

Whoever stops a worker may signal all its processes at once, as systemd does. A pool process that runs a hint refuses to
be stopped so: its parent ends it when the drain is over, and its parent's death does at once. It leads a process group,
so that what a job has started ends together with a process that is ended by force; what a job leaves running when it
returns is left alone. A child that a job forks and that comes back into the core ends there: it has the parent's
memory, but neither its threads nor the right to its connections.
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
#: Celery's soft time limit, which hints do not have, raises at any line of the core as well.
REFUSED = (*STOPS, signal.SIGUSR1)
#: With these codes billiard's handler of signals leaves a pool process that was told to stop.
STOPPED = tuple(one - 256 for one in (*STOPS, signal.SIGINT))

handler_of: Callable[[int], Any] = _signal.getsignal

# A process has one parent, one set of signal handlers and one hook at a fork, and the system calls them without an
# object: so their state is global. All other state of the runner is handed over.
_parent: int | None = None
_forked = _busy = _asked = False
_before: dict[int, Any] = {}
_forgets: list[Callable[[], None]] = []


class Leave(SystemExit):
    """Ends a pool process in good order: its hint is over, and everything that it held is written or handed back."""


def remember_parent() -> None:
    """Say that this process is the one whose pool processes end with it."""
    global _parent
    _parent = os.getpid()


def own(forget: Callable[[], None]) -> None:
    """Make this process the owner of what it opens; a forked child forgets all of it, by the callable too."""
    global _forked
    if not _forgets:
        os.register_at_fork(after_in_child=_disinherit)
    _forked = False
    _forgets[:] = [forget]


def is_forked() -> bool:
    """Whether this is a child that some job has forked."""
    return _forked


def lead_group() -> None:
    """Begin a process group with this process."""
    with suppress(OSError):  # a session's leader has one
        os.setpgid(0, 0)
    end_if_orphaned()


def end_if_orphaned() -> None:
    """End with the parent also where the system does not see to it, and where it died before it could be watched."""
    if _parent is not None and not _forked and os.getppid() != _parent:
        end_by_force()


def end_by_force() -> NoReturn:
    """End this process at once, and with it what its job has started."""
    pid = os.getpid()
    end_group(pid)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("unreachable")


def end_group(leader: int) -> None:
    """End what is left of a group whose leader is, or was, a pool process."""
    with suppress(OSError):  # it is empty, or the process leads none: then it has its parent's
        os.killpg(leader, signal.SIGKILL)


@contextmanager
def busy() -> Iterator[None]:
    """Refuse to be stopped in this block; a process that was asked to meanwhile leaves in good order afterwards."""
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


def leave_if_told(error: BaseException) -> None:
    """Let a signal that ends this process end it: what it raised inside the job is not the job's failure.

    A stop is raised on, and what is held goes back. Any other signal (a limit of processor time, an alarm that nobody
    handles) is as good as a crash, and counts as one: it may come back whenever this job runs.
    """
    if not terminate_handler_fired():
        return
    if isinstance(error, SystemExit) and error.code not in STOPPED:
        os.kill(os.getpid(), signal.SIGKILL)
    raise error


def leave_if_forked(error: BaseException | None = None) -> None:
    """End a child of a job's at the place where its function would return to the core."""
    if not _forked:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever the job has put there
            stream.flush()
    os._exit(code)


def guarded(function: Callable[..., T], *arguments: Any) -> T:
    """Call a part of a job; a child that it forks ends where it would return from here."""
    try:
        value = function(*arguments)
    except BaseException as error:
        leave_if_forked(error)
        raise
    leave_if_forked()
    return value


def _guard_signals() -> None:
    """Take the signals over from Celery, which sets its own after it has told us that the process begins.

    A handler is not inherited by programs that a job starts, as ignoring would be: they can be ended as ever.
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
    """Refuse while a hint runs; an idle process does what Celery wants, which shrinks its pool that way."""
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
    """In a forked child: signals end it again, and it has no connection."""
    global _forked
    if _forked:
        return
    _forked = True
    for number in (*REFUSED, signal.SIGUSR2):
        with suppress(ValueError, OSError):
            signal.signal(number, signal.SIG_DFL)
    for forget in _forgets:
        forget()
