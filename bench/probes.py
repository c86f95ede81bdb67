"""From a single submit to the function's first line, while the worker is idle or at a fixed rate."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

from bench.parts import until

#: By name: a figure, or every sample of it.
Figures = dict[str, Any]

#: Longer than a job takes to pass, so that each finds the worker idle; uneven, so as not to fall in with any timer.
PAUSE_S = (0.03, 0.07)
#: Probes a second, where they are paced.
PACE = 200
#: The first ones open connections; at a fixed rate they also hold up those behind them.
WARM_UP, WARM_UP_PACED = 5, 100


def latencies(seen: Path, submit: Callable[[int], object], probes: int) -> Figures:
    """Submit so many probes, each to an idle worker; return their latencies in ms."""
    pauses = (time.sleep(random.uniform(*PAUSE_S)) for _ in repeat(None))
    return {"latency ms": _measured(seen, submit, probes, WARM_UP, pauses)}


def paced(seen: Path, submit: Callable[[int], object], probes: int) -> Figures:
    """Submit so many probes at a fixed rate, whether those before have run or not; return their latencies in ms."""
    began = time.monotonic()
    pauses = (_sleep_until(began + number / PACE) for number in count())
    return {f"latency at {PACE}/s ms": _measured(seen, submit, probes, min(WARM_UP_PACED, probes), pauses)}


def rate(submit: Callable[[], object], calls: int) -> float:
    """Return how many calls a second one process makes, one after the other."""
    for _ in range(WARM_UP):
        submit()
    began = time.monotonic()
    for _ in range(calls):
        submit()
    return calls / (time.monotonic() - began)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _measured(
    seen: Path, submit: Callable[[int], object], probes: int, warm_up: int, pauses: Iterator[None]
) -> list[float]:
    seen.unlink(missing_ok=True)
    submitted: dict[int, float] = {}
    for number in range(-warm_up, probes):
        next(pauses)
        submitted[number] = time.monotonic()
        submit(number)
    until(lambda: len(_read(seen)) >= len(submitted), "every probe has run", timeout=30)
    began = _read(seen)
    return [(began[n] - at) * 1000 for n, at in submitted.items() if n >= 0]


def _read(seen: Path) -> dict[int, float]:
    lines = seen.read_text().splitlines() if seen.exists() else []
    return {int(number): float(at) for number, at in (line.split() for line in lines)}
