"""A private connection to the empty database, as leases, flushes and the keeper use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esteira.db import Core


@pytest.fixture
def core(database: None) -> Iterator[Core]:
    core = Core("test")
    yield core
    core.close()
