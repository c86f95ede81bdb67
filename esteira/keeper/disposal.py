"""Remove old rows of one kind: found along an index of their age, removed in batches that fit into the time.

If a batch takes too long, or one of its rows cannot be removed, the batch is rolled back and tried again with half as
many rows. A single row that cannot be removed is skipped for ten minutes, so that it does not block the others. None of
this counts as an unavailable database, so rescues go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from psycopg.errors import IntegrityError, RaiseException

from esteira.db import Db
from esteira.db.walk import Walk, within

log = logging.getLogger("esteira.keeper")

BATCH = 500
#: A batch that takes longer is rolled back, and halved.
LIMIT_S = 1.0
#: At most this many rows that cannot be removed are skipped at a time; they are tried again after this many seconds.
SKIPPED_MOST, AGAIN_S = 1000, 600.0

#: Removes rows by key if they are still older than the given moment; returns False if that needs another turn.
Remove = Callable[[Db, list[Any], float], bool]


class Disposal:
    """Removes rows of one kind after they have become older than `keep_s`.

    `find` is a statement that returns the keys of at most `limit` rows between `after` and `until`, without `skipped`.
    """

    def __init__(self, name: str, *, find: str, remove: Remove, keep_s: float) -> None:
        self._name, self._sql, self._remove, self._keep_s = name, find, remove, keep_s
        self._walk = Walk(self._find, box_s=0.0)
        self._batch = BATCH
        self._found: list[Any] = []
        self._skipped: list[Any] = []
        self._try_again = time.monotonic() + AGAIN_S

    @property
    def through(self) -> bool:
        """Return whether all rows were examined and all that were found are removed."""
        return self._walk.between and not self._found

    def step(self, db: Db, now: float, ends: float) -> bool:
        """Find and remove rows until `ends` of the monotonic clock; return whether there are more."""
        oldest = now - self._keep_s
        while True:
            if self._walk.between and not self._found and time.monotonic() > self._try_again:
                self._skipped, self._try_again = [], time.monotonic() + AGAIN_S
            left = False if self._found else self._walk.step(db, oldest)
            if not (self._found or left):
                return False
            self._remove_batch(db, oldest)
            if time.monotonic() > ends:
                return bool(self._found) or left

    def _find(self, db: Db, after: float, until: float) -> bool:
        asked = {"after": after, "until": until, "skipped": self._skipped, "limit": BATCH}
        self._found = [row[0] for row in db.fetch(self._sql, asked)]
        return len(self._found) == BATCH

    def _remove_batch(self, db: Db, until: float) -> None:
        part = self._found[: self._batch]
        done: bool | None
        try:
            done = within(db, LIMIT_S, lambda: self._remove(db, part, until))
        except (IntegrityError, RaiseException) as error:  # from another application's foreign key or trigger
            done = self._give_way(part, str(error))
        else:
            if done is None:
                done = self._give_way(
                    part, f"it takes more than {LIMIT_S:g} s, or another transaction locks it"
                )
            elif done:
                self._batch = min(BATCH, 2 * self._batch)
        if done:
            self._found = self._found[len(part) :]

    def _give_way(self, part: list[Any], why: str) -> bool:
        """Halve the batch; return True if it was a single row, which is then skipped."""
        self._batch = max(1, len(part) // 2)
        if len(part) > 1:
            return False
        log.warning("retention skips %s of the %s for now: %s", part[0], self._name, why.strip())
        self._skipped = [*self._skipped[1 - SKIPPED_MOST :], part[0]]
        return True
