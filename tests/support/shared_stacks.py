"""Stacks that the tests of one folder share: each goes after the last test that needs it, not at the end of the run.

Seven containers with their health checks, or the pods of an installation, would take time from all tests that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(eq=False, kw_only=True)
class SharedStack:
    fixture: str
    folder: Path
    take_down: Callable[[], object]

    def serves(self, item: pytest.Item) -> bool:
        return self.fixture in getattr(item, "fixturenames", ()) and item.path.parent == self.folder


_standing: list[SharedStack] = []


@contextmanager
def shared_stack(fixture: str, folder: Path, take_down: Callable[[], object]) -> Iterator[None]:
    """Take a stack down as soon as no test of the folder uses the fixture any more, and at the latest on leaving."""
    one = SharedStack(fixture=fixture, folder=folder, take_down=take_down)
    _standing.append(one)
    try:
        yield
    finally:
        _take_down(one)


def take_down_unused(item: pytest.Item) -> None:
    """Call it after each test."""
    if not _standing:
        return
    later = item.session.items[item.session.items.index(item) + 1 :]
    for one in [one for one in _standing if not any(map(one.serves, later))]:
        _take_down(one)


def _take_down(one: SharedStack) -> None:
    if one in _standing:
        _standing.remove(one)
        one.take_down()
