"""The benchmark runs from end to end; the figures of a quick run mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.peers import building

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "esteira": {
        "no-op, short backlog",
        "no-op, fresh rows",
        "1 ms, short backlog",
        "1 ms, fresh rows",
        "1 ms / bare loop",
        "no-op, type never seen",
        "no-op, 2 workers of one process",
        "bulk submit",
        "bulk submit, slices of 500",
        "single submit",
        "bare loop",
        "latency p50 ms",
        "latency at 200/s p99 ms",
        "HTTP submit, 1 connection p99 ms",
        "HTTP submit, 32 connections, requests/s",
        "HTTP submit, 32 connections, web's CPU µs",
        "idle, all, %",
        "idle, worker, MB",
        "keeper, no worker ms",
        "keeper, lists full ms",
        "keeper, turn after what ran ms",
        "keeper, turn after a snapshot ms",
        "publishing µs",
        "no-op, short backlog: worker",
        "no-op, short backlog: beat",
        "no-op, short backlog: PostgreSQL",
        "no-op, short backlog: Redis",
    },
    "celery": {"no-op", "1 ms", "delay", "latency p50 ms", "latency at 200/s p50 ms", "no-op: worker"},
}
OF_A_PEER = {
    "no-op",
    "1 ms",
    "1 ms / bare loop",
    "bulk submit",
    "latency p50 ms",
    "latency p99 ms",
    "no-op: worker",
}
#: A goal that says "at most" can be met by nothing at all within so short a time.
MAY_BE_NOTHING = {"idle stack, % of a core"}
ADDRESS = {"port", "listen_addresses", "unix_socket_directories"}


def test_the_benchmark_measures_both_sides_and_judges_its_goals(tmp_path: Path) -> None:
    result, shown = _quick(tmp_path)

    for side, figures in FIGURES.items():
        assert figures <= set(result["medians"][side])
    assert len(result["goals"]) == 18
    assert all(goal["value"] > 0 for goal in result["goals"] if goal["what"] not in MAY_BE_NOTHING)
    assert "bulk submit" in shown
    assert set(result["machine"]["PostgreSQL was started with"]) == ADDRESS


@pytest.mark.skipif("BENCH_PEERS" not in os.environ, reason="it downloads packages; BENCH_PEERS=1 runs it")
def test_every_peer_is_measured_or_left_out_with_a_reason(tmp_path: Path) -> None:
    result, shown = _quick(tmp_path, "--peers")

    measured = set(result["medians"]) - {"esteira", "celery"}
    assert measured | set(result["left out"]) == {"River", "PGQueuer", "procrastinate", "BullMQ"}
    for peer in measured:
        assert set(result["medians"][peer]) >= OF_A_PEER
        assert all(ratio > 0 for ratio in result["ratios"][peer].values())
        assert f"{peer}, no-op" in shown
    for peer in result["left out"]:
        assert f"{peer} was left out: " in shown


@pytest.mark.parametrize(
    ("build", "tool"), [(building.go("river"), "go"), (building.node("bullmq"), "npm")], ids=["go", "npm"]
)
def test_a_peer_without_its_toolchain_is_left_out(
    build: building.Build, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(building.CannotBuild, match=f"^{tool} is not installed$"):
        build(tmp_path)


def _quick(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the benchmark with tiny numbers; return what it wrote and what it printed."""
    wrote = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--json", str(wrote), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(wrote.read_text()), done.stdout


def test_the_measure_of_lists_runs_from_end_to_end() -> None:
    command = [sys.executable, "-m", "bench.lists", "2000"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the end of an id") == 3
