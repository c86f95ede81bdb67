"""How many rows the keeper writes with one statement: as many as the server manages within the statement's limit.

A slow disk, or somebody's trigger, may need milliseconds for each row. A thousand of them would then be cancelled again
and again, and never be written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

#: What was cancelled is tried again with so many times fewer rows; what took less than this, with twice as many.
FEWER, LIGHT_S = 8, 0.5


class Slice:
    """The rows of one statement: `most` of them, or fewer after one that was cancelled."""

    def __init__(self, most: int) -> None:
        self._most = self.rows = most

    @contextmanager
    def taken(self) -> Iterator[int]:
        """Give the number of rows for a statement, and learn from how it ends."""
        began = time.monotonic()
        try:
            yield self.rows
        except psycopg.errors.QueryCanceled:
            self.rows = max(1, self.rows // FEWER)
            raise
        if time.monotonic() - began < LIGHT_S:
            self.rows = min(self._most, self.rows * 2)
