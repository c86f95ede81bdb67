"""T2 as the keeper does it: from waiting rows to hints, as far as Redis' window has room.

Only job types that a living worker announced are looked for, each by its own index range, so rows of other types cost
nothing, however many wait. Paused queues are left alone.

What waits goes before what is new. A list is filled again once a quarter of it is free, and a steady stream of new jobs
could keep it fuller than that for ever. So while due jobs wait for a list, the keeper says so in Redis, for three
seconds at a time: submits then store their jobs only, and all start in the order in which they became due. Of the jobs
that became due later, those start first that have their hints already: what the list holds, and what is submitted
within one turn of the keeper and 0.2 s, the age that a view of Redis may have. If Redis loses that word, or no keeper
lives, submits go straight to Redis again.

A list may hold more than a window. Whoever sees room sends a whole slice: a submit up to 1,000 jobs, a keeper up to
1,000 or a window, whichever is less. What one transaction submits is sent when it commits, and counts as one slice,
however much it is. So one sender alone goes beyond the window by less than a slice. Each process goes by its own view
and by what it sent itself since: those that send in the same 0.2 s each fill the room that they saw, and go beyond it
by less than a slice of their own; so does each thread that submits in the same moment.

A schedule whose jobs run in turn has one hint at most, whatever the window: its other ticks wait where they cost nobody
anything.
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
from esteira.record import insert
from esteira.record.insert import SLICE

#: A list is filled again once this share of it is free: publishing one by one would make hints of one.
REFILL_SHARE = 4
#: A submitter hears again that jobs wait after this, which is well within the life of that word.
REPEAT_S = 0.5
#: After a tick was offered in turn, the next one may follow soon: short ones would wait for the keeper otherwise.
FOLLOWS_S = 1.0
#: What waits for its turn is looked for no later than this, however slow the last look was.
LONGEST_REST_S = 10.0
#: The server works and the connection is there: these blame one statement.
ONE_STATEMENT = (psycopg.errors.QueryCanceled, *BUSY)


class DuePublisher:
    """Publishes one slice of every queue at a time, so that rescue comes in between."""

    def __init__(self, publisher: Publisher, clock: Clock | None = None) -> None:
        self._publisher, self._typical = publisher, Typical()
        self._told: dict[str, tuple[list[int], float]] = {}
        self._due: dict[str, Due] = {}
        self._front, self._turns = defaultdict[str, Slice](lambda: Slice(SLICE)), Slice(SLICE)
        self._clock, self._now = clock or Clock(), 0.0
        self._offered = self._turns_rest_until = float("-inf")
        self._slow_look = False
        self.window = settings.WINDOW
        self.went = 0, False

    def start_over(self) -> None:
        """Forget what was seen: another server, or another clock, has other rows."""
        for due in self._due.values():
            due.start_over()

    def publish(self, db: Db) -> tuple[int, bool]:
        """Return how many jobs were published, and whether more wait that will have room, or their turn, in a moment.

        Raises the first error of a queue once all have had their turn; `went` says then what became of the others.
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
            "what waits for its turn": partial(self._offer_turns, db, queues),
        }.items():
            try:
                published, waits = part()
            except Exception as error:  # of one queue: no reason to leave out the others
                if isinstance(error, ConnectionLost) and not isinstance(error, ONE_STATEMENT):
                    raise
                error.add_note(f"This happened while {what} was published.")
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
                front = insert.publish_front(db, queue=queue, types=types, limit=min(limit, most))
            published += self._send(db, front)
        lists = [n for n in PRIORITIES.values() if room.get(n, 0) * REFILL_SHARE >= self.window]
        none: tuple[list[insert.Published], set[int]] = [], set()
        rows, ended = (
            due.publish(db, self._now, types=types, priorities=lists, limit=limit) if lists else none
        )
        published += self._send(db, rows)
        # A list that could take more and was read to its end has nobody behind it.
        doubtful = [n for n in PRIORITIES.values() if n in room and n not in ended]
        behind = due.behind(db, types=types, priorities=doubtful) if doubtful else []
        self._tell(queue, behind)
        return published, bool(behind)

    def _tell(self, queue: str, behind: list[int]) -> None:
        """Say which lists have jobs waiting behind them; only who said it says that it is over."""
        before, at = self._told.get(queue, ([], float("-inf")))
        if behind == before and (not behind or time.monotonic() - at < REPEAT_S):
            return
        self._told[queue] = behind, time.monotonic()
        self._publisher.say_behind(queue, behind)

    def _offer_turns(self, db: Db, queues: Mapping[str, Sequence[str]]) -> tuple[int, bool]:
        began = time.monotonic()
        if not queues or began < self._turns_rest_until:
            return 0, False
        rows: list[insert.Published] = []
        try:
            with self._turns.taken() as most:
                rows = insert.publish_turns(db, served=queues, limit=min(most, self.window))
        finally:
            # Under somebody's snapshot of hours each look reads all ticks again that ran since. They are few, and may
            # come back at any place, so looks become rare instead of narrow. One slow look may be chance.
            now, before = time.monotonic(), self._slow_look
            self._slow_look = now - began > SLOW_S + len(rows) * MARKING_S
            if before and self._slow_look:
                self._turns_rest_until = now + min(LONGEST_REST_S, (now - began) * RESTS)
        if rows:
            self._offered = time.monotonic()
        return self._send(db, rows), time.monotonic() - self._offered < FOLLOWS_S

    def _send(self, db: Db, rows: Sequence[insert.Published]) -> int:
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
