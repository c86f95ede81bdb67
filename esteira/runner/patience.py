"""Wait for a database that is away: ask again after growing pauses, and say in the log what waits meanwhile."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

from esteira.db import ConnectionLost

T = TypeVar("T")

log = logging.getLogger("esteira.runner")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0


def until_answered(ask: Callable[[], T | None], *, waits: str, patience_s: float = math.inf) -> T | None:
    """Ask until there is an answer, and return it; None if there is none in time.

    A lost connection and a None are no answers. `waits` names what waits, for the log.
    """
    started, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            if (answer := ask()) is not None:
                return answer
        except ConnectionLost as error:
            log.warning("the database is away (%s); %s", type(error).__name__, waits)
        if time.monotonic() - started > patience_s:
            return None
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
