"""Jobs for a stack that a test is about to break."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

#: Jobs a test submits; JOBS=2000 for the long way.
JOBS = int(os.environ.get("JOBS", "240"))

#: Notes how long something took, in seconds, and what is promised.
Measured = Callable[..., None]


class Takes(Protocol):
    """A stack of whatever kind."""

    def submit(self, name: str, many: int | Sequence[dict[str, Any]], **options: Any) -> list[str]: ...


def mixed(stack: Takes, n: int = JOBS) -> list[str]:
    """Submit jobs that complete in every way: with an effect at the end, in one transaction, in batches."""
    return [
        *stack.submit("effects.work", n // 2),
        *stack.submit("effects.transfer", n // 4),
        *stack.submit("plain.nap", [{"seconds": 0.05}] * (n // 4)),
    ]


def outage(seconds: float) -> None:
    """Let an outage last: its length is what is tested, not a guess at how long something takes."""
    time.sleep(seconds)
