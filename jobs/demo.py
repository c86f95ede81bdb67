"""Jobs that greet, fail, recover and take long on purpose, to show what each case looks like."""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field

from esteira import Context, GiveUp, job

NAP_SECONDS = 0.1


@job(retries=3)
def greet(
    ctx: Context,
    name: Annotated[
        str, Field(min_length=1, max_length=80, title="Name", description="The name to greet.")
    ] = "world",
) -> dict[str, Any]:
    """Say hello.

    It does nothing else and takes no time: the smallest possible job.
    """
    return {"text": f"Hello {name}"}


@job(retries=5, backoff=1)
def flaky(
    ctx: Context,
    failures: Annotated[
        int,
        Field(
            ge=0,
            le=20,
            title="Failures",
            description="The number of tries that fail; with 6 or more, all fail.",
        ),
    ] = 2,
) -> dict[str, Any]:
    """Fail a few times, then succeed.

    It behaves like a service that is unavailable for a short time: each failed try is stored with its error, and the
    pause between the tries grows.
    """
    if ctx.try_number <= failures:
        raise ConnectionError(
            f"the service is unavailable (on purpose, failure {ctx.try_number} of {failures})"
        )
    return {"text": f"succeeded at try {ctx.try_number}"}


@job(retries=3)
def failing(
    ctx: Context,
    reason: Annotated[
        str,
        Field(min_length=1, max_length=500, title="Reason", description="The error message to show."),
    ] = "The account 4711 is closed: reopen it, then retry this job.",
) -> None:
    """Fail permanently.

    It behaves like a mistake that no further try can correct: the remaining tries are not used.
    """
    raise GiveUp(reason)


@job(retries=3, timeout=3700)
def slow(
    ctx: Context,
    seconds: Annotated[
        float, Field(ge=0, le=3600, title="Seconds", description="The duration, at most one hour.")
    ] = 30,
    steps: Annotated[int, Field(ge=1, le=10_000, title="Steps", description="The number of parts.")] = 30,
) -> dict[str, Any]:
    """Take a long time, with progress.

    Use it to try a cancellation, which stops it within a tenth of a second, or to kill its worker: it runs again.
    """
    began = time.monotonic()
    for step in ctx.each(range(1, steps + 1), "Working"):
        _wait_until(ctx, began + seconds * step / steps, done=step - 1, total=steps)
    return {"seconds": round(time.monotonic() - began, 1), "steps": steps}


def _wait_until(ctx: Context, moment: float, *, done: int, total: int) -> None:
    """Sleep in short parts, so that a cancelled job stops within one of them, even if its steps are long."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))
        ctx.progress(done, total, "Working")
