"""Servers for all chaos tests, a stack of processes for each, and a note of what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.invariants import TALLIES
from tests.support.process_stack import ProcessStack, Servers
from tests.support.recovery import Recovery, report

#: On a loaded machine everything takes longer; STRICT=1 holds the figures to what is promised.
SLACK_S = 0.0 if os.environ.get("STRICT") else 20.0


@pytest.fixture(scope="session")
def durable_servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def make_stack(durable_servers: Servers, tmp_path: Path) -> Iterator[Callable[..., ProcessStack]]:
    """Make a stack with settings of its own; the processes are the test's to start."""
    made: list[ProcessStack] = []

    def make(**settings: str) -> ProcessStack:
        logs = tmp_path / "logs"
        logs.mkdir(exist_ok=True)
        made.append(ProcessStack(durable_servers, logs, **settings))
        return made[-1]

    durable_servers.renew()
    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def stack(make_stack: Callable[..., ProcessStack]) -> ProcessStack:
    """A stack with the usual settings: a lease of two seconds, two processes a worker."""
    return make_stack()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Note a time and hold it to what is promised, with some slack on a busy machine."""
    rows: list[Recovery] = []

    def note(seconds: float, promised: float, what: str = "", *, away: float = 0.0) -> None:
        name = " ".join(filter(None, [request.node.originalname, what]))
        rows.append(Recovery(name=name, took=seconds, promised=promised, away=away))
        assert seconds <= promised + SLACK_S, f"took {seconds:.1f} s; promised were {promised:g} s"

    before = len(TALLIES)
    yield note
    report(request.node, rows, TALLIES[before:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test several times with REPEAT=5; the table then says the worst."""
    times = int(os.environ.get("REPEAT", "1"))
    if times > 1 and "measured" in metafunc.fixturenames:
        metafunc.fixturenames.append("run")
        metafunc.parametrize("run", range(1, times + 1))
