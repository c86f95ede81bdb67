"""Limit log lines that a client can cause at any rate: so many per minute, then the number of lines left out.

An attacker must not be able to fill the disk, or to hide important lines among others. Each process counts for itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from typing import Any

MOST = 30
SPAN_S = 60.0


class Allowance:
    """Allows so many lines in a span of time, for one kind of lines."""

    def __init__(self, *, most: int = MOST, span_s: float = SPAN_S) -> None:
        self._most, self._span_s = most, span_s
        self._lock = threading.Lock()
        self._began, self._said, self._left_out = float("-inf"), 0, 0

    def take(self) -> int | None:
        """Return how many lines were left out before this one; None if this one is left out as well."""
        with self._lock:
            now, left_out = time.monotonic(), 0
            if now - self._began > self._span_s:
                left_out, self._left_out = self._left_out, 0
                self._began, self._said = now, 0
            self._said += 1
            if self._said > self._most:
                self._left_out += 1
                return None
            return left_out


class Rarely:
    """A logger with a limit."""

    def __init__(self, log: logging.Logger, *, most: int = MOST, span_s: float = SPAN_S) -> None:
        self._log, self._allowance = log, Allowance(most=most, span_s=span_s)

    def warning(self, message: str, *args: Any) -> None:
        """Log the message, unless the limit of this minute is reached."""
        left_out = self._allowance.take()
        if left_out is None:
            return
        if left_out:
            self._log.warning("%d more such lines were left out", left_out)
        self._log.warning(message, *args)


class RarelyRefused(logging.Filter):
    """The same for Django's log lines about refused requests: each of its loggers has a limit per minute.

    The traceback of an unknown Host is removed, because it has no useful information. There is no limit for 5xx errors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._allowances: defaultdict[str, Allowance] = defaultdict(Allowance)

    def filter(self, record: logging.LogRecord) -> bool:
        refused = record.name.startswith("django.security") or (
            record.name == "django.request" and record.levelno < logging.ERROR
        )
        if not refused:
            return True
        left_out = self._allowances[record.name].take()
        if left_out:
            record.msg = f"{left_out} more such lines were left out. {record.msg}"
        record.exc_info = record.exc_text = None
        return left_out is not None
