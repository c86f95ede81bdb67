"""A job type with a schedule of one second; only the tests of schedules load it."""

from __future__ import annotations

from esteira import Context, every, job


@job(schedule=every(1), missed="all", grace=3600, retries=0)
def tick(ctx: Context) -> None:
    """Do nothing, every second."""
