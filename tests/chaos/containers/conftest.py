"""One stack of containers for all tests here, mended and emptied before each.

`make test` kills each part once; `make chaos-compose` also runs the tests marked `long`, with longer leases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compose_under_load import ComposeStackUnderLoad
from tests.support.shared_stacks import shared_stack

LEASE_S = os.environ.get("LEASE", "3")


@pytest.fixture(scope="session")
def shared(images: None) -> Iterator[ComposeStackUnderLoad]:
    stack = ComposeStackUnderLoad(f"esteira-chaos-{os.getpid()}", LEASE_SECONDS=LEASE_S, DRAIN_SECONDS="4")
    with shared_stack("shared", Path(__file__).parent, stack.down):
        stack.start()
        yield stack


@pytest.fixture
def stack(shared: ComposeStackUnderLoad) -> ComposeStackUnderLoad:
    """Two workers, beat, web, Flower and both servers, all healthy, without a job."""
    shared.renew()
    return shared
