"""Keep the log of a job: all records that reach Python's root logger from the job's own thread while it runs.

A job may configure logging again, and could so silence all later jobs of its process; `Logs` restores the setup.
"""

from __future__ import annotations

import copy
import logging
import threading
from contextlib import suppress
from typing import Any

from esteira.runner.held import HeldJobs
from esteira.values.bounds import clean, shown

#: The core's own messages about a job belong to the process's log only.
NOT_THE_JOB = (
    "esteira.runner",
    "esteira.broker",
    "celery.",
    "kombu.",
    "amqp",
)


class Capture(logging.Handler):
    """Adds lines to the running attempt; never touches the database."""

    def __init__(self, held_jobs: HeldJobs) -> None:
        super().__init__()
        self._held_jobs, self._thread = held_jobs, threading.get_ident()
        self._make = logging.getLogRecordFactory()
        logging.setLogRecordFactory(self._without_secrets)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))

    def _without_secrets(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record without secrets of the running job, for every handler, including the process's own log.

        This covers all threads: a library may log in its own thread, and the process runs one job at a time.
        """
        record = self._make(*args, **kwargs)
        held = self._held_jobs.running
        if held is not None and held.scrub is not None:
            with suppress(Exception):  # the handlers report a record that cannot be formatted
                said = record.getMessage()
                if record.exc_info:  # else a handler would format the error again
                    said += "\n" + logging.Formatter().formatException(record.exc_info)
                record.msg, record.args, record.exc_info = held.scrub(said), (), None
        return record

    def emit(self, record: logging.LogRecord) -> None:
        held = self._held_jobs.running
        if held is None or record.thread != self._thread or record.name.startswith(NOT_THE_JOB):
            return
        try:
            held.say(clean(self._written(record)) + "\n")
        except Exception:  # a line that cannot be formatted must not fail the job
            self.handleError(record)

    def _written(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception:  # its arguments do not match its message, or their own code raises an error
            plain = copy.copy(record)
            plain.msg, plain.args = _as_it_can_be(record), None
            return self.format(plain)


def _as_it_can_be(record: logging.LogRecord) -> str:
    message = record.msg if isinstance(record.msg, str) else shown(record.msg)
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    told = ", ".join(shown(one) for one in args if one is not None)
    return f"{message} (its arguments do not fit: {told})" if told else message


class Logs:
    """Python's logging as it was at the start of a hint; an otherwise unused logger shows if all were disabled."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._root, self._jobs = logging.getLogger(), logging.getLogger("jobs")
        self._nobodys = logging.getLogger("esteira.nobodys")

    def install(self) -> None:
        """Record the state of all loggers: there are too many to do this again for each hint."""
        self._loggers = {name: _state(one) for name, one in _loggers()}

    def begin(self) -> None:
        """Add the capture to the root logger, and record the state of logging."""
        if self._capture not in self._root.handlers:
            self._root.addHandler(self._capture)
        self._handlers = list(self._root.handlers)
        self._before = self._look()

    def settle(self) -> None:
        if self._root.handlers != self._handlers or self._look() != self._before:
            self._put_back()

    def _look(self) -> tuple[Any, ...]:
        root, jobs = self._root, self._jobs
        return (
            root.level,
            root.disabled,
            root.filters[:],
            root.manager.disable,
            jobs.level,
            jobs.disabled,
            jobs.propagate,
            self._nobodys.disabled,
            self._capture.level,
            self._capture.filters[:],
        )

    def _put_back(self) -> None:
        root, capture = self._root, self._capture
        level, root.disabled, root.filters[:], everything, *jobs, _, own, capture.filters[:] = self._before
        root.handlers[:] = self._handlers
        root.setLevel(level)
        logging.disable(everything)
        capture.setLevel(own)
        for name, logger in _loggers():
            known = self._loggers.get(name)
            if known is None:
                logger.disabled = False
            else:
                level, logger.disabled, logger.propagate, logger.handlers[:], logger.filters[:] = known
                logger.setLevel(level)
        self._jobs.setLevel(jobs[0])
        _, self._jobs.disabled, self._jobs.propagate = jobs


def _loggers() -> list[tuple[str, logging.Logger]]:
    found = list(logging.getLogger().manager.loggerDict.items())
    return [(name, one) for name, one in found if isinstance(one, logging.Logger)]


def _state(logger: logging.Logger) -> tuple[int, bool, bool, list[logging.Handler], list[Any]]:
    return logger.level, logger.disabled, logger.propagate, list(logger.handlers), list(logger.filters)
