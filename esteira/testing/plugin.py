"""The pytest plugin: the fixture `esteira_jobs`. It needs pytest-django, and imports nothing of Django at its load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # models may be imported once pytest-django has set Django up, and this file is read before
    from esteira.testing.jobs import TestJobs


@pytest.fixture
def esteira_jobs(db: None) -> Iterator[TestJobs]:
    """The jobs of this test, in its transaction or with `django_db(transaction=True)`; nothing is sent to Redis."""
    from esteira.broker import publisher
    from esteira.testing.jobs import TestJobs

    with publisher.fast.silent():
        yield TestJobs()
