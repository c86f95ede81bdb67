"""T2 as the keeper does it: from waiting rows to hints, as far as Redis' window has room.

Only job types that a living worker announced are looked for, each by its own index range, so rows of other types cost
nothing, however many wait. Paused queues are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from django.conf import settings

from esteira.db import Db
from esteira.depth import Typical, hints
from esteira.identity import SILENT_S
from esteira.publish import Publisher
from esteira.record import insert
from esteira.record.insert import SLICE
from esteira.registry import PRIORITIES
from esteira.wire import FRONT

#: A list is fed again once this share of it is free: feeding one by one would make hints of one.
REFILL_SHARE = 4


class Feeder:
    """Feeds one slice of every queue at a time, so that rescue comes in between."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher, self._typical = publisher, Typical()
        self.window = settings.WINDOW

    def feed(self, db: Db) -> tuple[int, bool]:
        """Return how many jobs were fed, and whether a list with a backlog was too full for more."""
        if not self._publisher.available():
            return 0, False
        fed, full = 0, False
        for queue, types in served(db).items():
            limit = min(SLICE, self.window)
            room = self._publisher.room(queue, self.window)
            if room.get(FRONT, 0) > 0:
                fed += self._send(db, insert.feed_front(db, queue=queue, types=types, limit=limit))
            lists = [
                number for number in PRIORITIES.values() if room.get(number, 0) * REFILL_SHARE >= self.window
            ]
            full = full or len(lists) < len(PRIORITIES)
            if lists:
                fed += self._send(
                    db, insert.feed(db, queue=queue, types=types, priorities=lists, limit=limit)
                )
        return fed, full

    def _send(self, db: Db, rows: Sequence[insert.Fed]) -> int:
        if rows:
            self._typical.refresh(db, rows)
            self._publisher.send(hints(rows, self._typical))
        return len(rows)


def served(db: Db) -> Mapping[str, list[str]]:
    """Return the queues that living workers read and that are not paused, each with the job types they know there."""
    rows = db.fetch(
        """
        SELECT DISTINCT q.name, t.name FROM esteira_worker w
        CROSS JOIN LATERAL jsonb_array_elements_text(w.queues) AS q(name)
        CROSS JOIN LATERAL jsonb_array_elements_text(w.types) AS t(name)
        WHERE w.state = 'up' AND w.last_seen > clock_timestamp() - %s * interval '1 second'
          AND NOT EXISTS (SELECT 1 FROM esteira_queue p WHERE p.name = q.name AND p.paused_at IS NOT NULL)
        ORDER BY 1, 2""",
        [SILENT_S],
    )
    found: dict[str, list[str]] = defaultdict(list)
    for queue, name in rows:
        found[queue].append(name)
    return found
