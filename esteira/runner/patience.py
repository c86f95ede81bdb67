"""Wait for an unavailable database: retry after growing pauses, and log which work waits meanwhile."""

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
    """Call `ask` until it returns an answer, and return that; None if there is none in time.

    A lost connection and a None are not answers. `waits` names the waiting work, for the log.
    """
    started, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            if (answer := ask()) is not None:
                return answer
        except ConnectionLost as error:
            log.warning("the database is unavailable (%s); %s", type(error).__name__, waits)
        if time.monotonic() - started > patience_s:
            return None
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
