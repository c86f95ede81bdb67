"""The benchmark's ratios Esteira / peer."""

from __future__ import annotations

from bench import table
from bench.probes import Figures

WORDS = "no-op, fresh rows, jobs/s"
LATENCY = "submit to start, p50 ms"


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    rounds = [_round(esteira=300, river=100), _round(esteira=100, river=100), _round(esteira=100, river=400)]

    found = table.summary(rounds, {})["ratios"]

    assert found["River"][WORDS] == 1
    assert found["celery"][WORDS] == 10


def test_a_round_without_a_peer_does_not_count_for_it() -> None:
    rounds = [_round(esteira=300, river=100), _round(esteira=900), _round(esteira=800)]

    found = table.summary(rounds, {})["ratios"]

    assert (found["River"][WORDS], found["River"][LATENCY]) == (3, 0.5)


def test_a_peer_that_was_never_measured_is_not_shown() -> None:
    assert set(table.summary([_round(esteira=100)], {})["ratios"]) == {"celery"}


def _round(*, esteira: float, river: float | None = None) -> dict[str, Figures]:
    ours: Figures = {
        "no-op, fresh rows": esteira,
        "no-op, short backlog": 0.0,
        "1 ms, short backlog": 1.0,
        "1 ms, fresh rows": 1.0,
        "bare loop": 1.0,
        "1 ms / bare loop": 1.0,
        "bulk submit": 1.0,
        "bulk submit, slices of 500": 1.0,
        "latency ms": [1.0, 1.0],
    }
    sides: dict[str, Figures] = {"esteira": ours, "celery": {"no-op": esteira / 10, "latency ms": [1.0]}}
    if river is not None:
        sides["River"] = {"no-op": river, "latency ms": [2.0]}
    return sides
