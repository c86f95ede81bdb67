"""Logs what somebody outside can cause as often as they like: so many lines a minute, then how many were left out.

An attacker must not fill the disk, or bury what matters. Each process counts for itself.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

MOST = 30
SPAN_S = 60.0


class Rarely:
    """A logger with a limit."""

    def __init__(self, log: logging.Logger, *, most: int = MOST, span_s: float = SPAN_S) -> None:
        self._log, self._most, self._span_s = log, most, span_s
        self._lock = threading.Lock()
        self._began, self._said, self._left_out = float("-inf"), 0, 0

    def warning(self, message: str, *args: Any) -> None:
        """Log it, unless this minute has had its lines."""
        with self._lock:
            now, left_out = time.monotonic(), 0
            if now - self._began > self._span_s:
                left_out, self._left_out = self._left_out, 0
                self._began, self._said = now, 0
            self._said += 1
            if self._said > self._most:
                self._left_out += 1
                return
        if left_out:
            self._log.warning("%d more such lines were left out", left_out)
        self._log.warning(message, *args)
