"""Jobs without an effect but their result; short ones travel in batches."""

from __future__ import annotations

import time

from esteira import Context, job


@job
def nothing(ctx: Context) -> None:
    """Do nothing at all."""


@job
def count(ctx: Context, n: int) -> dict[str, int]:
    """Return the number that it was given."""
    return {"n": n}


@job
def nap(ctx: Context, seconds: float = 0.2) -> dict[str, int]:
    """Sleep, feeling for cancellation."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ctx.progress(seconds - left, seconds)
        time.sleep(min(0.05, left))
    return {"attempt": ctx.attempt}


@job(timeout=1)
def brief(ctx: Context) -> dict[str, int]:
    """Take most of the time limit."""
    time.sleep(0.7)
    return {"attempt": ctx.attempt}


@job
def speak(ctx: Context) -> None:
    """Say something in its log."""
    ctx.log.info("spoken")


@job(retries=5, backoff=0.2)
def burn(ctx: Context, seconds: float = 1.0) -> None:
    """Keep a processor busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
