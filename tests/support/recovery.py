"""The table of the chaos tests: how long each thing took to recover, and what was lost or doubled meanwhile.

A test's report carries its rows, because the process that prints the table is another than the one that ran the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.support.invariants import Tally

PROPERTY = "recovery"
TITLES = f"{'away':>8}{'best':>8}{'worst':>8}{'promised':>10}{'accepted':>10}{'lost':>6}{'doubled':>9}"


@dataclass(kw_only=True)
class Recovery:
    """How long it took until work went on, in seconds; what was broken had been away before that."""

    name: str
    took: float
    promised: float
    away: float
    #: What the checks of the test have counted: accepted, lost, doubled. The first row of a test has it.
    counted: Sequence[int] | None = None


def report(item: pytest.Item, rows: Sequence[Recovery], tallies: Sequence[Tally]) -> None:
    """Add the rows of a test to its report; call it before the test's fixtures have all ended."""
    if rows and tallies:
        rows[0].counted = _sums((one.accepted, one.lost, one.doubled) for one in tallies)
    item.user_properties.append((PROPERTY, [asdict(row) for row in rows]))


def table(reports: Iterable[object]) -> list[str]:
    """Return the lines of the table, none if nothing was measured."""
    rows: dict[str, list[Recovery]] = {}
    for one in reports:
        if isinstance(one, pytest.TestReport) and one.when == "teardown":
            for row in _rows(one):
                rows.setdefault(row["name"], []).append(Recovery(**row))
    return (
        [f"{'':58}{'runs':>5}{TITLES}", *(_line(name, seen) for name, seen in rows.items())] if rows else []
    )


def _rows(report: pytest.TestReport) -> list[dict[str, Any]]:
    properties: dict[str, Any] = dict(report.user_properties)
    return properties.get(PROPERTY, [])


def _line(name: str, seen: Sequence[Recovery]) -> str:
    away, took = max(one.away for one in seen), [one.took for one in seen]
    times = f"{away:8.2f}{min(took):8.2f}{max(took):8.2f}{seen[-1].promised:10.1f}"
    counted = [one.counted for one in seen if one.counted]
    return f"{name:58}{len(took):5}{times}" + ("{:10}{:6}{:9}".format(*_sums(counted)) if counted else "")


def _sums(counts: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]
