"""The benchmark runs from end to end; what it measures when it is quick means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "esteira": {
        "no-op, short backlog",
        "no-op, fresh rows",
        "1 ms, short backlog",
        "1 ms, fresh rows",
        "no-op, type never seen",
        "bulk submit",
        "bare loop",
        "latency p50 ms",
        "keeper, no worker ms",
        "keeper, lists full ms",
        "publishing µs",
        "no-op, short backlog: worker",
        "no-op, short backlog: beat",
        "no-op, short backlog: PostgreSQL",
        "no-op, short backlog: Redis",
    },
    "celery": {"no-op", "1 ms", "latency p50 ms", "no-op: worker"},
}


def test_the_benchmark_measures_both_sides_and_judges_its_goals(tmp_path: Path) -> None:
    wrote = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--json", str(wrote)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(wrote.read_text())
    for side, figures in FIGURES.items():
        assert figures <= set(result["medians"][side])
    assert len(result["goals"]) == 9
    assert all(goal["value"] > 0 for goal in result["goals"])
    assert "bulk submit" in done.stdout


def test_the_measure_of_lists_runs_from_end_to_end() -> None:
    command = [sys.executable, "-m", "bench.lists", "2000"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the end of an id") == 3
