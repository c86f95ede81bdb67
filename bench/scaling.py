"""The no-op with one worker, two and four of them, each of one process: how far more workers help."""

from __future__ import annotations

from collections.abc import Sequence

from bench.esteira_side import EsteiraSide
from bench.probes import Figures


def measure(esteira: EsteiraSide, numbers: Sequence[int]) -> Figures:
    """Return the rate with each number of workers."""
    found: Figures = {}
    for workers in numbers:
        found |= esteira.scaled(workers)
    return found
