"""Publish waiting jobs: the keeper turns waiting rows into hints, as far as the prefetch window in Redis has room.

Only job types that a running worker has announced are read, each by its own index range, so rows of other types cost
nothing, however many wait. Paused queues are skipped.

Waiting jobs go before new ones. A list is refilled when a quarter of it is free, and a steady stream of new jobs could
keep it fuller than that forever. So while due jobs wait for a list, the keeper sets a flag in Redis, for three seconds
at a time: submits then only store their jobs, and all jobs start in the order in which they became due. Among jobs that
became due later, those that already have hints start first: those in the list, and those submitted within one turn of
the keeper and 0.2 s, the maximum age of a process's view of Redis. If Redis loses the flag, or no keeper runs, submits
go directly to Redis again.

A list may hold more than a window. A process that sees room sends a whole slice: a submit up to 1,000 jobs, a keeper up
to 1,000 or a window, whichever is less. The jobs submitted by one transaction are sent when it commits, and count as
one slice, whatever their number. So a single sender exceeds the window by less than a slice. Each process uses its own
view of Redis and the number of jobs that it has sent since: processes that send in the same 0.2 s each fill the room
that they saw, and exceed it by less than one slice each. The same holds for threads that submit at the same moment.

A schedule whose jobs run in turn has at most one hint, whatever the window: its other ticks wait without cost.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import psycopg
from django.conf import settings

from esteira.broker.batching import Typical, hints
from esteira.broker.hint import FRONT
from esteira.broker.publisher import Publisher
from esteira.db import BUSY, ConnectionLost, Db
from esteira.db.walk import RESTS, Clock
from esteira.job_types.request import PRIORITIES
from esteira.keeper.due import MARKING_S, SLOW_S, Due
from esteira.keeper.slices import Slice
from esteira.liveness import SILENT_S
from esteira.record.insert import SLICE
from esteira.record.publish import Published, publish_front, publish_turns

#: A list is refilled when this share of it is free: publishing one by one would make hints of one job each.
REFILL_SHARE = 4
#: The flag for submitters is renewed after this time, well before it expires.
REPEAT_S = 0.5
#: After a tick was offered in turn, the next one may follow soon: otherwise short ticks would wait for the keeper.
FOLLOWS_S = 1.0
#: Ticks that wait for their turn are looked for at least this often, however slow the last read was.
LONGEST_REST_S = 10.0
#: Errors of one statement: the server works and the connection is usable.
ONE_STATEMENT = (psycopg.errors.QueryCanceled, *BUSY)


class DuePublisher:
    """Publishes one slice of every queue at a time, so that rescues run in between."""

    def __init__(self, publisher: Publisher, clock: Clock | None = None) -> None:
        self._publisher, self._typical = publisher, Typical()
        self._flagged: dict[str, tuple[list[int], float]] = {}
        self._due: dict[str, Due] = {}
        self._front, self._turns = defaultdict[str, Slice](lambda: Slice(SLICE)), Slice(SLICE)
        self._clock, self._now = clock or Clock(), 0.0
        self._offered = self._turns_rest_until = float("-inf")
        self._slow_look = False
        self.window = settings.ESTEIRA_WINDOW
        self.went = 0, False

    def start_over(self) -> None:
        """Forget everything read so far: another server, or another clock, has other rows."""
        for due in self._due.values():
            due.start_over()

    def publish(self, db: Db) -> tuple[int, bool]:
        """Return how many jobs were published, and whether more will soon have room, or their turn.

        After all queues were processed, raises the first error of a queue; `went` then holds the result of the others.
        """
        self.went = 0, False
        if not self._publisher.available():
            return 0, False
        self._now, went_back = self._clock.look(db)
        if went_back:
            self.start_over()
        queues, failed = served(db), list[Exception]()
        parts = {
            f"the queue {queue}": partial(self._publish, db, queue, types) for queue, types in queues.items()
        }
        for what, part in {
            **parts,
            "the ticks that wait for their turn": partial(self._offer_turns, db, queues),
        }.items():
            try:
                published, waits = part()
            except Exception as error:  # of one queue, which must not stop the others
                if isinstance(error, ConnectionLost) and not isinstance(error, ONE_STATEMENT):
                    raise
                error.add_note(f"This error occurred while publishing {what}.")
                failed.append(error)
            else:
                self.went = self.went[0] + published, self.went[1] or waits
        if failed:
            raise failed[0]
        return self.went

    def _publish(self, db: Db, queue: str, types: Sequence[str]) -> tuple[int, bool]:
        limit, published = min(SLICE, self.window), 0
        due = self._due.setdefault(queue, Due(queue))
        room = self._publisher.room(queue, self.window)
        if room.get(FRONT, 0) > 0:
            with self._front[queue].taken() as most:
                front = publish_front(db, queue=queue, types=types, limit=min(limit, most))
            published += self._send(db, front)
        lists = [n for n in PRIORITIES.values() if room.get(n, 0) * REFILL_SHARE >= self.window]
        none: tuple[list[Published], set[int]] = [], set()
        rows, ended = (
            due.publish(db, self._now, types=types, priorities=lists, limit=limit) if lists else none
        )
        published += self._send(db, rows)
        # A list with room that was read to its end has no waiting jobs.
        doubtful = [n for n in PRIORITIES.values() if n in room and n not in ended]
        behind = due.behind(db, types=types, priorities=doubtful) if doubtful else []
        self._flag(queue, behind)
        return published, bool(behind)

    def _flag(self, queue: str, behind: list[int]) -> None:
        """Set the flags of the lists that have waiting jobs; only the process that set a flag clears it."""
        before, at = self._flagged.get(queue, ([], float("-inf")))
        if behind == before and (not behind or time.monotonic() - at < REPEAT_S):
            return
        self._flagged[queue] = behind, time.monotonic()
        self._publisher.say_behind(queue, behind)

    def _offer_turns(self, db: Db, queues: Mapping[str, Sequence[str]]) -> tuple[int, bool]:
        began = time.monotonic()
        if not queues or began < self._turns_rest_until:
            return 0, False
        rows: list[Published] = []
        try:
            with self._turns.taken() as most:
                rows = publish_turns(db, served=queues, limit=min(most, self.window))
        finally:
            # During a snapshot of hours each read also covers all ticks that ran since. They are few, and may return at
            # any place, so reads become rare instead of narrow. A single slow read may be chance.
            now, before = time.monotonic(), self._slow_look
            self._slow_look = now - began > SLOW_S + len(rows) * MARKING_S
            if before and self._slow_look:
                self._turns_rest_until = now + min(LONGEST_REST_S, (now - began) * RESTS)
        if rows:
            self._offered = time.monotonic()
        return self._send(db, rows), time.monotonic() - self._offered < FOLLOWS_S

    def _send(self, db: Db, rows: Sequence[Published]) -> int:
        if rows:
            self._typical.refresh(db, rows)
            self._publisher.send(hints(((row, [row.id]) for row in rows), self._typical))
        return len(rows)


def served(db: Db) -> Mapping[str, list[str]]:
    """Return the queues that running workers read and that are not paused, each with the job types of those workers."""
    rows = db.fetch(
        """
        SELECT DISTINCT q.name, t.name FROM esteira_worker w
        CROSS JOIN LATERAL jsonb_array_elements_text(w.queues) AS q(name)
        CROSS JOIN LATERAL jsonb_array_elements_text(w.types) AS t(name)
        WHERE w.state = 'up' AND w.last_seen > clock_timestamp() - %s * interval '1 second'
          AND jsonb_typeof(w.queues) = 'array' AND jsonb_typeof(w.types) = 'array'
          AND q.name IS NOT NULL AND t.name IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM esteira_queue p WHERE p.name = q.name AND p.paused_at IS NOT NULL)
        ORDER BY 1, 2""",
        [SILENT_S],
    )
    found: dict[str, list[str]] = defaultdict(list)
    for queue, name in rows:
        found[queue].append(name)
    return found
