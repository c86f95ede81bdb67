"""One stack of containers that all tests look at, and more for those that need settings or a start of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose_stack import ComposeStack
from tests.support.shared_stacks import shared_stack
from tests.support.waiting import Stopwatch

HERE = Path(__file__).parent
#: What looks at a fresh stack comes before what breaks it, and what has a stack of its own comes after both.
ORDER = ("test_start", "test_journey", "test_health", "test_redis_kinds", "test_dev", "test_scale")
SHARED = {"JOB_PACKAGES": "jobs,tests.support.chaos_jobs,tests.support.ticking_jobs"}
#: Runs beside each other on one machine have projects of their own.
RUN = f"esteira-e2e-{os.getpid()}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem
        if item.path.parent != HERE:
            return -1  # others keep their place, before these
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)


class Shared(ComposeStack):
    """The shared stack, and how long it took to start from nothing."""

    started_in_s = 0.0


@pytest.fixture(scope="session")
def stack(images: None) -> Iterator[Shared]:
    """A stack with the settings of an installation, and jobs for tests; a test leaves it healthy."""
    stack = Shared(RUN, **SHARED)
    with shared_stack("stack", HERE, stack.down):
        watch = Stopwatch()
        stack.up()
        stack.started_in_s = watch.seconds
        yield stack
    assert not stack.leftovers()


@pytest.fixture
def make_stack(images: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., ComposeStack]]:
    """Make a stack of the test's own; what to start of it is the test's to say."""
    made: list[ComposeStack] = []

    def make(name: str, **settings: Any) -> ComposeStack:
        made.append(ComposeStack(f"{RUN}-{name}", **settings))
        return made[-1]

    yield make
    for stack in made:
        stack.down()
