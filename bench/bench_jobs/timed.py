"""The work of the benchmark as Esteira's job types."""

from __future__ import annotations

from bench import work
from esteira import Context, job


@job(name="bench.noop")
def noop(ctx: Context) -> None:
    """Do nothing."""


@job(name="bench.one_ms")
def one_ms(ctx: Context) -> None:
    """Compute for 1 ms."""
    work.one_ms()


@job(name="bench.probe")
def probe(ctx: Context, number: int) -> None:
    """Tell when it began."""
    work.probe(number)


@job(name="bench.unseen")
def unseen(ctx: Context) -> None:
    """Do nothing, as a type that was never measured before."""
