"""Waits for a condition, with a deadline, instead of sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: A limit is for what never comes; a machine may be slow, and busy with other tests.
BUSY = 3


def until(condition: Callable[[], T], what: str, *, timeout: float = 30, every: float = 0.03) -> T:
    """Return the condition's first true value; fail with `what` after `timeout` seconds, or `BUSY` times as many."""
    timeout *= BUSY
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        time.sleep(every)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
