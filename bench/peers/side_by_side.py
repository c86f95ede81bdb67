"""Esteira's figures beside those of each peer, and how many times theirs they are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from bench.amounts import SLICE

Medians = Mapping[str, Mapping[str, float]]

TITLES = {"esteira": "Esteira", "celery": "plain Celery"}
#: In words, Esteira's figure, and the peer's.
COMPARED = (
    ("no-op, short backlog, jobs/s", "no-op, short backlog", "no-op"),
    ("no-op, fresh rows, jobs/s", "no-op, fresh rows", "no-op"),
    ("1 ms, jobs/s", "1 ms, short backlog", "1 ms"),
    ("1 ms / its bare loop", "1 ms / bare loop", "1 ms / bare loop"),
    (f"bulk submit, slices of {SLICE}, jobs/s", f"bulk submit, slices of {SLICE}", "bulk submit"),
    ("submit to start, p50 ms", "latency p50 ms", "latency p50 ms"),
    ("submit to start, p99 ms", "latency p99 ms", "latency p99 ms"),
)


def ratios(rounds: Sequence[Medians]) -> dict[str, dict[str, float]]:
    """Return by peer and figure the median of all rounds' ratios Esteira / peer."""
    peers = dict.fromkeys(name for each in rounds for name in each if name != "esteira")
    return {peer: dict(_compared([each for each in rounds if peer in each], peer)) for peer in peers}


def _compared(rounds: Sequence[Medians], peer: str) -> Iterator[tuple[str, float]]:
    for words, ours, theirs in COMPARED:
        found = [each["esteira"][ours] / each[peer][theirs] for each in rounds if each[peer].get(theirs)]
        if found:
            yield words, statistics.median(found)


def tables(medians: Medians, ratios_of: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """Return the figures, and the ratios."""
    peers = list(ratios_of)
    names = [TITLES.get(peer, peer) for peer in peers]
    figures = Table("", "Esteira", *names, title="Side by side (medians)")
    for words, ours, theirs in COMPARED:
        cells = [medians[peer].get(theirs) for peer in peers]
        figures.add_row(words, *map(_cell, [medians["esteira"].get(ours), *cells]))
    yield figures
    table = Table(
        "Esteira / peer", *names, title="Ratios (medians of each round's; below 1 is better for ms)"
    )
    for words, _, _ in COMPARED:
        table.add_row(words, *(_cell(ratios_of[peer].get(words)) for peer in peers))
    yield table


def _cell(value: float | None) -> str:
    return "" if value is None else rounded(value)


def rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
