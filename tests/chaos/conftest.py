"""Servers for all chaos tests, a stack of processes for each, and a table of what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.invariants import TALLIES, Tally
from tests.support.stack import Servers, Stack


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How long it took until work went on, in seconds; what was broken had been away before that."""

    took: float
    promised: float
    away: float


MEASURED: dict[str, list[Recovery]] = {}
#: What the checks of a test have counted, under the name of its first row.
COUNTED: dict[str, list[Tally]] = {}
#: On a loaded machine everything takes longer; STRICT=1 holds the figures to what is promised.
SLACK_S = 0.0 if os.environ.get("STRICT") else 5.0


@pytest.fixture(scope="session")
def durable_servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def make_stack(durable_servers: Servers, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Make a stack with settings of its own; the processes are the test's to start."""
    made: list[Stack] = []

    def make(**settings: str) -> Stack:
        logs = tmp_path / "logs"
        logs.mkdir(exist_ok=True)
        made.append(Stack(durable_servers, logs, **settings))
        return made[-1]

    durable_servers.renew()
    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    """A stack with the usual settings: a lease of two seconds, two processes a worker."""
    return make_stack()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Note a time and hold it to what is promised, with some slack on a busy machine."""
    names: list[str] = []

    def note(seconds: float, promised: float, what: str = "", *, away: float = 0.0) -> None:
        names.append(" ".join(filter(None, [request.node.originalname, what])))
        MEASURED.setdefault(names[-1], []).append(Recovery(took=seconds, promised=promised, away=away))
        assert seconds <= promised + SLACK_S, f"took {seconds:.1f} s; promised were {promised:g} s"

    before = len(TALLIES)
    yield note
    if names:
        COUNTED.setdefault(names[0], []).extend(TALLIES[before:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test several times with REPEAT=5; the table then says the worst."""
    times = int(os.environ.get("REPEAT", "1"))
    if times > 1 and "measured" in metafunc.fixturenames:
        metafunc.fixturenames.append("run")
        metafunc.parametrize("run", range(1, times + 1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("recovery, in seconds")
        titles = (
            f"{'away':>8}{'best':>8}{'worst':>8}{'promised':>10}{'accepted':>10}{'lost':>6}{'doubled':>9}"
        )
        terminalreporter.line(f"{'':58}{'runs':>5}{titles}")
    for name, seen in MEASURED.items():
        away, took = max(one.away for one in seen), [one.took for one in seen]
        times = f"{away:8.2f}{min(took):8.2f}{max(took):8.2f}{seen[-1].promised:10.1f}"
        terminalreporter.line(f"{name:58}{len(took):5}{times}{_counts(COUNTED.get(name, []))}")


def _counts(tallies: list[Tally]) -> str:
    if not tallies:
        return ""
    lost, doubled = sum(one.lost for one in tallies), sum(one.doubled for one in tallies)
    return f"{sum(one.accepted for one in tallies):10}{lost:6}{doubled:9}"
