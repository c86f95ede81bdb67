"""Jobs that end their own process, and jobs that do not listen."""

from __future__ import annotations

import os
import signal

from esteira import Context, job


@job
def poison(ctx: Context) -> None:
    """Kill the process that runs it, every time."""
    os.kill(os.getpid(), signal.SIGKILL)


@job
def minefield(ctx: Context, n: int, mine: int) -> dict[str, int]:
    """Kill the process if n is the mine; do nothing otherwise."""
    if n == mine:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": ctx.attempt}


@job(retries=0)
def hopeless(ctx: Context) -> None:
    """Fail for good."""
    raise RuntimeError("hopeless")
