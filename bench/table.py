"""From the figures of all rounds to medians, ratios against the goals, and a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Round = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio or figure that must reach a limit, from above or from below."""

    what: str
    of: Callable[[Round], float]
    limit: float
    at_most: bool = False
    unit: str = ""

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def _over_celery(figure: str) -> Callable[[Round], float]:
    return lambda r: r["esteira"][figure] / r["celery"]["no-op"]


def _over_bare(figure: str) -> Callable[[Round], float]:
    return lambda r: r["esteira"][figure] / r["esteira"]["bare loop"]


GOALS = (
    Goal(what="bulk submit, one process, jobs/s", of=lambda r: r["esteira"]["bulk submit"], limit=20_000),
    Goal(
        what="no-op, short backlog / plain Celery", of=_over_celery("no-op, short backlog"), limit=5, unit="×"
    ),
    Goal(what="no-op, fresh rows / plain Celery", of=_over_celery("no-op, fresh rows"), limit=5, unit="×"),
    Goal(what="1 ms, short backlog / bare loop", of=_over_bare("1 ms, short backlog"), limit=0.70),
    Goal(what="1 ms, fresh rows / bare loop", of=_over_bare("1 ms, fresh rows"), limit=0.70),
    Goal(
        what="submit to start, p50 / plain Celery",
        of=lambda r: (
            statistics.median(r["esteira"]["latency ms"]) / statistics.median(r["celery"]["latency ms"])
        ),
        limit=1.5,
        at_most=True,
        unit="×",
    ),
)
KEEPER = Goal(what="", of=lambda keeper: 0.0, limit=10, at_most=True)


def summary(rounds: Sequence[Round], once: Round) -> dict[str, Any]:
    """Return medians of every figure, and how each goal came out."""
    goals = [_judged(goal.what, statistics.median(goal.of(r) for r in rounds), goal) for goal in GOALS]
    goals += [
        _judged(f"keeper's turn, {where}, database ms", once["keeper"][f"keeper, {where} ms"], KEEPER)
        for where in ("no worker", "lists full", "sweep after what ran")
    ]
    return {
        "medians": {
            "esteira": {**_medians([r["esteira"] for r in rounds]), **once["unseen"], **once["keeper"]},
            "celery": _medians([r["celery"] for r in rounds]),
        },
        "goals": goals,
    }


def _judged(what: str, value: float, goal: Goal) -> dict[str, Any]:
    limit = f"{'≤' if goal.at_most else '≥'} {goal.limit:g}{goal.unit}"
    return {"what": what, "value": value, "goal": limit, "reached": goal.reached(value)}


def _medians(sides: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in sides[0]:
        if name == "latency ms":
            every = sorted(ms for side in sides for ms in side[name])
            found["latency p50 ms"] = statistics.median(every)
            found["latency p99 ms"] = every[min(len(every) - 1, int(len(every) * 0.99))]
        else:
            found[name] = statistics.median(side[name] for side in sides)
    return found


def show(result: Mapping[str, Any]) -> None:
    """Print the goals, the figures and who used the CPU."""
    console = Console(width=110)
    esteira, celery = (result["medians"][side] for side in ("esteira", "celery"))
    console.print(_goals(result["goals"]))
    console.print(_figures(esteira, celery))
    console.print(_cpu({"Esteira": esteira, "plain Celery": celery}))


def _goals(goals: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("goal", "reached", "asked for", "", title="Goals (medians of each round's ratio)")
    for goal in goals:
        table.add_row(goal["what"], _round(goal["value"]), goal["goal"], "yes" if goal["reached"] else "NO")
    return table


def _figures(esteira: Mapping[str, float], celery: Mapping[str, float]) -> Table:
    table = Table("", "Esteira", "plain Celery", title="Figures (medians)")
    theirs = {"no-op, short backlog": "no-op", "1 ms, short backlog": "1 ms"}
    for name, value in esteira.items():
        if ": " not in name:
            unit = "" if name.endswith((" ms", " µs", "published")) else ", jobs/s"
            beside = celery.get(theirs.get(name, name))
            table.add_row(name + unit, _round(value), "" if beside is None else _round(beside))
    return table


def _cpu(sides: Mapping[str, Mapping[str, float]]) -> Table:
    parts = ("worker", "worker's parent", "beat", "PostgreSQL", "Redis")
    table = Table(
        "CPU per job, µs", *parts, "all", title="Who used the CPU (the worker's parent is part of the worker)"
    )
    for side, figures in sides.items():
        for name in [n.removesuffix(": worker") for n in figures if n.endswith(": worker")]:
            used = {part: figures.get(f"{name}: {part}") for part in parts}
            total = sum(value or 0 for part, value in used.items() if part != "worker's parent")
            cells = ["" if value is None else _round(value) for value in used.values()]
            table.add_row(f"{side}, {name}", *cells, _round(total))
    return table


def _round(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
