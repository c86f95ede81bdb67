"""The journey through containers."""

from __future__ import annotations

from tests.support.journey import Journey


class TestContainers(Journey):
    """What compose started."""
