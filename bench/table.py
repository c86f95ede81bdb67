"""From the figures of all rounds to medians, ratios against the goals, and a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.amounts import SLICE
from bench.peers import side_by_side
from bench.peers.side_by_side import TITLES, rounded
from bench.probes import PACE, Figures

Round = Mapping[str, Figures]
Medians = Mapping[str, Mapping[str, float]]

#: A figure whose name ends otherwise is a rate of jobs.
UNITS = (" ms", " µs", " %", " MB", "/s", "published", "sweeps")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio or figure that must reach a limit, from above or from below."""

    what: str
    of: Callable[[Mapping[str, Mapping[str, Any]]], float]
    limit: float
    at_most: bool = False
    unit: str = ""

    def reached(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


RIVER, BULK = "River", 50_000


def _over_celery(figure: str) -> Callable[[Round], float]:
    return lambda r: r["esteira"][figure] / r["celery"]["no-op"]


def _over_river(figure: str) -> Callable[[Round], float]:
    return lambda r: r["esteira"][figure] / r[RIVER]["no-op"]


def _over_bare(figure: str) -> Callable[[Round], float]:
    return lambda r: r["esteira"][figure] / r["esteira"]["bare loop"]


def _bulk(r: Round) -> float:
    """Return the better of two ratios: to a fixed rate in one call, and to 0.9 of River's in calls of the same size."""
    ours, river = r["esteira"], r.get(RIVER, {}).get("bulk submit")
    beside = ours[f"bulk submit, slices of {SLICE}"] / (0.9 * river) if river else 0.0
    return float(max(ours["bulk submit"] / BULK, beside))


def _single_over_delay(r: Round) -> float:
    return float(r["esteira"]["single submit"] / r["celery"]["delay"])


def _p50_over_celery(r: Round) -> float:
    return statistics.median(r["esteira"]["latency ms"]) / statistics.median(r["celery"]["latency ms"])


#: Goals for the ratio of each round. River's are judged if it was measured.
GOALS = (
    Goal(what=f"bulk submit / {BULK:,} jobs/s, or / 0.9 of River's", of=_bulk, limit=1, unit="×"),
    Goal(what="single submit / plain Celery's delay()", of=_single_over_delay, limit=1.2, unit="×"),
    *(
        Goal(what=f"no-op, {rows} / {name}", of=over(f"no-op, {rows}"), limit=limit, unit="×")
        for name, over, limit in (("plain Celery", _over_celery, 15), (RIVER, _over_river, 1))
        for rows in ("short backlog", "fresh rows")
    ),
    *(
        Goal(what=f"1 ms, {rows} / bare loop", of=_over_bare(f"1 ms, {rows}"), limit=0.9)
        for rows in ("short backlog", "fresh rows")
    ),
    Goal(what="submit to start, p50 / plain Celery", of=_p50_over_celery, limit=1.3, at_most=True, unit="×"),
)


def _figure(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians["esteira"][name]


def _ratio(above: str, below: str, side: str = "esteira") -> Callable[[Medians], float]:
    return lambda medians: medians["esteira"][above] / medians[side][below]


_PACED = f"latency at {PACE}/s"
#: Goals for figures that are measured once, or pooled from all rounds.
ONCE = (
    Goal(
        what="submit to start, p99 / its p50",
        of=_ratio("latency p99 ms", "latency p50 ms"),
        limit=3,
        at_most=True,
        unit="×",
    ),
    Goal(
        what=f"submit to start at {PACE}/s, p50 / plain Celery",
        of=_ratio(f"{_PACED} p50 ms", f"{_PACED} p50 ms", "celery"),
        limit=1.3,
        at_most=True,
        unit="×",
    ),
    Goal(
        what=f"submit to start at {PACE}/s, p99 / its p50",
        of=_ratio(f"{_PACED} p99 ms", f"{_PACED} p50 ms"),
        limit=3,
        at_most=True,
        unit="×",
    ),
    Goal(
        what="HTTP submit, 32 connections, requests/s",
        of=_figure("HTTP submit, 32 connections, requests/s"),
        limit=1_000,
    ),
    Goal(
        what="HTTP submit, 1 connection, p99 ms",
        of=_figure("HTTP submit, 1 connection p99 ms"),
        limit=10,
        at_most=True,
    ),
    Goal(what="idle stack, % of a core", of=_figure("idle, all, %"), limit=1.5, at_most=True),
    Goal(what="idle worker of two processes, MB", of=_figure("idle, worker, MB"), limit=174, at_most=True),
    *(
        Goal(
            what=f"keeper's turn, {where}, database ms",
            of=_figure(f"keeper, {where} ms"),
            limit=10,
            at_most=True,
        )
        for where in ("no worker", "lists full", "turn after what ran", "turn after a snapshot")
    ),
)


def summary(rounds: Sequence[Round], once: Mapping[str, Figures]) -> dict[str, Any]:
    """Return medians of every figure, how each goal came out, and how many times a peer's figure Esteira's is."""
    merged = {name: value for figures in once.values() for name, value in figures.items()}
    sides = dict.fromkeys(name for each in rounds for name in each)
    medians = {
        name: _medians([each[name] for each in rounds if name in each])
        for name in ("esteira", "celery", *sides)
    }
    medians["esteira"] |= _medians([merged])
    whole = [each for each in rounds if "no-op" in each.get("celery", {})]
    goals = [_judged(goal, statistics.median(ratios)) for goal in GOALS if (ratios := _of_each(goal, whole))]
    for goal in ONCE:
        with suppress(KeyError):  # that part was not asked for
            goals.append(_judged(goal, goal.of(medians)))
    return {"medians": medians, "goals": goals, "ratios": side_by_side.ratios([_each(one) for one in whole])}


def _of_each(goal: Goal, rounds: Sequence[Round]) -> list[float]:
    """Return a goal's ratio in each round that has its figures."""
    found = []
    for one in rounds:
        with suppress(KeyError):  # the peer was not measured
            found.append(goal.of(one))
    return found


def _each(one: Round) -> Medians:
    return {side: _medians([figures]) for side, figures in one.items()}


def _judged(goal: Goal, value: float) -> dict[str, Any]:
    limit = f"{'≤' if goal.at_most else '≥'} {goal.limit:g}{goal.unit}"
    return {"what": goal.what, "value": value, "goal": limit, "reached": goal.reached(value)}


def _medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """Pool samples of all rounds for p50 and p99; take the median of everything else."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [figures[name] for figures in rounds if name in figures]
        if isinstance(values[0], list):
            every = sorted(ms for samples in values for ms in samples)
            found[f"{name.removesuffix(' ms')} p50 ms"] = statistics.median(every)
            found[f"{name.removesuffix(' ms')} p99 ms"] = every[min(len(every) - 1, int(len(every) * 0.99))]
        else:
            found[name] = statistics.median(values)
    return found


def show(result: Mapping[str, Any]) -> None:
    """Print the goals, the figures, the peers and who used the CPU."""
    console = Console(width=120)
    medians = result["medians"]
    console.print(_goals(result["goals"]))
    missed = [goal["what"] for goal in result["goals"] if not goal["reached"]]
    if missed:
        console.print(f"Not reached: {len(missed)} of {len(result['goals'])} goals.", highlight=False)
    console.print(_figures(medians["esteira"], medians["celery"]))
    if len(medians) > 2:
        for one in side_by_side.tables(medians, result["ratios"]):
            console.print(one)
    for name, why in result["left out"].items():
        console.print(f"{name} was left out: {why}", highlight=False)
    console.print(_cpu(medians))


def _goals(goals: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("goal", "measured", "asked for", "", title="Goals (medians of each round's ratio)")
    for goal in goals:
        verdict = "reached" if goal["reached"] else "NOT REACHED"
        table.add_row(goal["what"], rounded(goal["value"]), goal["goal"], verdict)
    return table


def _figures(esteira: Mapping[str, float], celery: Mapping[str, float]) -> Table:
    table = Table("", "Esteira", "plain Celery", title="Figures (medians)")
    theirs = {
        "no-op, short backlog": "no-op",
        "1 ms, short backlog": "1 ms",
        "single submit": "delay",
    }
    for name, value in esteira.items():
        if ": " not in name:
            unit = "" if name.endswith(UNITS) or " / " in name else ", jobs/s"
            beside = celery.get(theirs.get(name, name))
            table.add_row(name + unit, rounded(value), "" if beside is None else rounded(beside))
    return table


def _cpu(sides: Mapping[str, Mapping[str, float]]) -> Table:
    parts = ("worker", "worker's parent", "beat", "web", "PostgreSQL", "Redis")
    table = Table(
        "CPU per job, µs", *parts, "all", title="Who used the CPU (the worker's parent is part of the worker)"
    )
    for side, figures in sides.items():
        for name in [n.removesuffix(": worker") for n in figures if n.endswith(": worker")]:
            used = {part: figures.get(f"{name}: {part}") for part in parts}
            total = sum(value or 0 for part, value in used.items() if part != "worker's parent")
            cells = ["" if value is None else rounded(value) for value in used.values()]
            table.add_row(f"{TITLES.get(side, side)}, {name}", *cells, rounded(total))
    return table
