"""Choose how many rows the keeper writes with one statement: as many as fit into the statement's time limit.

A slow disk, or another application's trigger, may need milliseconds for each row. A thousand rows would then be
cancelled again and again, and never be written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

#: A cancelled statement is tried again with this many times fewer rows; after a quicker one the number is doubled.
FEWER, LIGHT_S = 8, 0.5


class Slice:
    """The rows of one statement: `most` of them, or fewer after one that was cancelled."""

    def __init__(self, most: int) -> None:
        self._most = self.rows = most

    @contextmanager
    def taken(self) -> Iterator[int]:
        """Return the number of rows for a statement, and adjust it by the way the statement ends."""
        began = time.monotonic()
        try:
            yield self.rows
        except psycopg.errors.QueryCanceled:
            self.rows = max(1, self.rows // FEWER)
            raise
        if time.monotonic() - began < LIGHT_S:
            self.rows = min(self._most, self.rows * 2)
