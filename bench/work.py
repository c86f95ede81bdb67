"""The work that every side does: nothing, 1 ms of CPU, or telling when it began.

The millisecond is a fixed number of turns of a loop, counted once for the whole run, so that every side computes the
same and a busy machine makes nobody's work shorter.
"""

from __future__ import annotations

import os
import time

LOOPS, PROBES = "BENCH_LOOPS", "BENCH_PROBES"


def burn(loops: int) -> int:
    """Compute for a while."""
    total = 0
    for n in range(loops):
        total += n * n % 7
    return total


def one_ms() -> None:
    """Compute for what was a millisecond of CPU when the run began."""
    burn(int(os.environ[LOOPS]))


def calibrate() -> int:
    """Return how many turns take 1 ms of this machine's CPU when nobody disturbs: the quickest of many tries."""
    turns = 20_000
    return int(turns * 0.001 / min(_cpu_seconds(turns) for _ in range(200)))


def _cpu_seconds(turns: int) -> float:
    began = time.process_time()
    burn(turns)
    return time.process_time() - began


def probe(number: int) -> None:
    """Write down when this line is reached; one machine has one monotonic clock for all processes."""
    now = time.monotonic()
    file = os.open(os.environ[PROBES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{number} {now:.6f}\n".encode())
    finally:
        os.close(file)
