"""Jobs that greet, recover, fail and stall on purpose: to see what each looks like before a real one does it."""

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
        str, Field(min_length=1, max_length=80, title="Name", description="Who is greeted.")
    ] = "world",
) -> dict[str, Any]:
    """Say hello.

    Does nothing else and takes no time: the smallest job there is.
    """
    return {"text": f"Hello {name}"}


@job(retries=5, backoff=1)
def flaky(
    ctx: Context,
    failures: Annotated[
        int,
        Field(
            ge=0, le=20, title="Failures", description="How many tries fail; with 6 or more, none is left."
        ),
    ] = 2,
) -> dict[str, Any]:
    """Fail a few times, then succeed.

    What a service that is away for a moment looks like: each failed try is kept with its error, and the wait between
    the tries grows.
    """
    if ctx.try_number <= failures:
        raise ConnectionError(f"the service is away (on purpose, failure {ctx.try_number} of {failures})")
    return {"text": f"succeeded at try {ctx.try_number}"}


@job(retries=3)
def failing(
    ctx: Context,
    reason: Annotated[
        str,
        Field(min_length=1, max_length=500, title="Reason", description="The error that people will read."),
    ] = "The account 4711 is closed: reopen it, then retry this job.",
) -> None:
    """Fail for good.

    What a mistake that no further try can mend looks like: the tries that are left are not used.
    """
    raise GiveUp(reason)


@job(retries=3, timeout=3700)
def slow(
    ctx: Context,
    seconds: Annotated[
        float, Field(ge=0, le=3600, title="Seconds", description="How long it takes, at most an hour.")
    ] = 30,
    steps: Annotated[int, Field(ge=1, le=10_000, title="Steps", description="Into how many parts.")] = 30,
) -> dict[str, Any]:
    """Take a long time, with progress.

    Something to cancel, or to kill the worker under: it stops at the next tenth of a second, or begins again elsewhere.
    """
    began = time.monotonic()
    for step in ctx.each(range(1, steps + 1), "Working"):
        _wait_until(ctx, began + seconds * step / steps, done=step - 1, total=steps)
    return {"seconds": round(time.monotonic() - began, 1), "steps": steps}


def _wait_until(ctx: Context, moment: float, *, done: int, total: int) -> None:
    """Sleep in naps, so that a cancelled job stops within one of them, however long its steps are."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))
        ctx.progress(done, total, "Working")
