"""Restore a pool process between two jobs: undo each change of the first, or let no other job run in the process.

Jobs run one after the other in one process, so a change that one job makes affects the next: to a database session, the
working directory, a signal handler, the logging setup. Each job runs in a context of its own, which covers Django's
language and time zone. After each job, everything in this module is compared with its state at the start of the hint,
and differences are undone. If that fails, `spoiled` contains the reason, and the process is replaced. Python's audit
events report changes that would otherwise cost a system call to detect. If the process dies here, nothing is lost.

A library's own state, threads and other processes stay as a job has left them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the conversion to enumerations, which takes far longer
import contextvars
import fcntl
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from esteira.db import sessions
from esteira.runner import pool_process
from esteira.runner.interrupt import Interrupt
from esteira.runner.job_log import Logs
from esteira.runner.pool_process import guarded, handler_of
from esteira.values.spoken import name_of, said

T = TypeVar("T")

WATCHED = frozenset(("os.chdir", "os.putenv", "os.unsetenv", "resource.setrlimit", "resource.prlimit"))
SIGNALS = (
    *pool_process.REFUSED,
    signal.SIGINT,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGPIPE,
    signal.SIGVTALRM,
    signal.SIGPROF,
)
TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
LIMITS = tuple(number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
#: A descriptor with this number or a following one is not a job's, unless the job opens that many.
CANARY_FROM = 500

_happened: set[str] = set()


def _note(event: str, _: object) -> None:
    if event in WATCHED:
        _happened.add(event)


class Between:
    """One per pool process; for its main thread only."""

    def __init__(self, logs: Logs, interrupt: Interrupt) -> None:
        self._logs, self._interrupt = logs, interrupt
        self.spoiled = ""
        #: A job has closed descriptors that were not its own: Celery and the database can no longer be reached.
        self.is_cut_off = False

    def install(self) -> None:
        """Record the state of the process; its setup must be complete by now."""
        sys.addaudithook(_note)
        self._mask = tuple(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._limits = {number: resource.getrlimit(number) for number in LIMITS}
        self._locale = locale.setlocale(locale.LC_ALL)
        self._directory, self._environment = _folder(), dict(os.environ)
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        with open(os.devnull, "rb") as nothing:
            self._canary = fcntl.fcntl(nothing, fcntl.F_DUPFD_CLOEXEC, max(3, min(CANARY_FROM, room // 2)))
        self._logs.install()

    def begin(self) -> None:
        """Record the state in which each job of a hint starts; if it cannot be read, no other job runs here."""
        try:
            self._begin()
        except Exception as error:  # after any error, the claimed jobs must be handed back
            self._spoil(error)

    def _begin(self) -> None:
        if _happened:
            self._directory, self._environment = _folder(), dict(os.environ)
            _happened.clear()
        self._interrupt.install()
        self._logs.begin()
        self._handlers = tuple(map(handler_of, SIGNALS))
        self._filters = list(warnings.filters)
        self._interpreter = _interpreter()
        self._context = contextvars.Context()
        for variable, value in contextvars.copy_context().items():
            if (
                variable.name != "decimal_context"
            ):  # its value changes in place; without one, each job gets its own
                self._context.run(variable.set, value)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call all code of one job in a context of its own; a child that it forks does not return from here."""
        return self._context.copy().run(guarded, function, *arguments)

    def settle(self) -> None:
        """Undo the changes that a job has made."""
        try:
            sessions.reset()
            self._settle_signals()
            os.umask(self._umask)
            if _happened:
                self._settle_noted()
            if locale.setlocale(locale.LC_ALL) != self._locale:
                locale.setlocale(locale.LC_ALL, self._locale)
            if warnings.filters != self._filters:
                _set_filters(self._filters)
            if (now := _interpreter()) != self._interpreter:
                _settle_interpreter(self._interpreter, now)
            self._logs.settle()
            self._look_at_descriptors()
        except Exception as error:  # after any error, no other job may run in this process
            self._spoil(error)

    def _spoil(self, error: Exception) -> None:
        self.spoiled = self.spoiled or f"{name_of(error)}: {said(error)}"

    def _look_at_descriptors(self) -> None:
        try:
            os.get_inheritable(self._canary)
        except OSError:
            self.is_cut_off = True
            raise

    def _settle_signals(self) -> None:
        self._interrupt.install()  # always: Python cannot see a handler that was set in C
        if tuple(map(handler_of, SIGNALS)) != self._handlers:
            for number, handler in zip(SIGNALS, self._handlers, strict=True):
                if handler is not None:  # a handler that was set in C cannot be restored from Python
                    signal.signal(number, handler)
            for timer in TIMERS:
                signal.setitimer(timer, 0)
        signal.alarm(0)
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _settle_noted(self) -> None:
        """Undo changes that audit events reported; raises if only an administrator may undo one."""
        if "os.chdir" in _happened:
            if self._directory is None:
                raise FileNotFoundError("the folder in which the worker was started has been removed")
            os.chdir(self._directory)
        if dict(os.environ) != self._environment:
            for name in set(os.environ) - set(self._environment):
                del os.environ[name]
            os.environ.update(self._environment)
            time.tzset()
        for number, limits in self._limits.items():
            if resource.getrlimit(number) != limits:
                resource.setrlimit(number, limits)
        _happened.clear()


def _folder() -> Path | None:
    """Return the working directory; None if it was removed, for example by a deployment."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _interpreter() -> tuple[Any, ...]:
    return (
        sys.stdin,
        sys.stdout,
        sys.stderr,
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.gettrace(),
        sys.getprofile(),
        gc.isenabled(),
        socket.getdefaulttimeout(),
    )


def _settle_interpreter(before: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    for put, was, is_now in zip(_PUT, before, now, strict=True):
        if was is not is_now:
            put(was)


def _set_threads_hook(hook: Any) -> None:
    threading.excepthook = hook


#: The function that restores each value of `_interpreter`, in the same order.
_PUT: tuple[Callable[[Any], object], ...] = (
    *(
        lambda value, name=name: setattr(sys, name, value)
        for name in ("stdin", "stdout", "stderr", "excepthook", "unraisablehook")
    ),
    _set_threads_hook,
    sys.setrecursionlimit,
    sys.setswitchinterval,
    sys.settrace,
    sys.setprofile,
    lambda collects: (gc.enable if collects else gc.disable)(),
    socket.setdefaulttimeout,
)


def _set_filters(filters: list[Any]) -> None:
    changed: Any = warnings
    changed.filters[:] = filters
    changed._filters_mutated()
