"""The latency of jobs that are submitted at a fixed rate, to Esteira and to plain Celery in turns."""

from __future__ import annotations

from bench.celery_side import CelerySide
from bench.esteira_side import EsteiraSide
from bench.probes import Figures


def measure(esteira: EsteiraSide, celery: CelerySide, rounds: int) -> list[dict[str, Figures]]:
    """Return the latencies of each round and side."""
    return [{"esteira": esteira.paced(), "celery": celery.paced()} for _ in range(rounds)]
