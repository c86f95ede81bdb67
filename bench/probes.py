"""From a single submit to the function's first line, while the worker is idle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.parts import until

#: By name: a figure, or every sample of it.
Figures = dict[str, Any]

#: Longer than a job takes to pass, so that each finds the worker idle; uneven, so as not to fall in with any timer.
PAUSE_S = (0.03, 0.07)
#: The first ones open connections.
WARM_UP = 5


def latencies(seen: Path, submit: Callable[[int], object], probes: int) -> Figures:
    """Submit so many probes one by one; return their latencies in ms."""
    seen.unlink(missing_ok=True)
    submitted: dict[int, float] = {}
    for number in range(-WARM_UP, probes):
        time.sleep(random.uniform(*PAUSE_S))
        submitted[number] = time.monotonic()
        submit(number)
    until(lambda: len(_read(seen)) >= len(submitted), "every probe has run", timeout=30)
    began = _read(seen)
    return {"latency ms": [(began[n] - at) * 1000 for n, at in submitted.items() if n >= 0]}


def _read(seen: Path) -> dict[int, float]:
    lines = seen.read_text().splitlines() if seen.exists() else []
    return {int(number): float(at) for number, at in (line.split() for line in lines)}
