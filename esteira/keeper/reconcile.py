"""Reconcile Redis with the rows: a published job whose hint is missing is published again.

One comparison covers every possible loss of a hint: a wiped or restarted Redis, an evicted key, a failed publish, a
worker killed between taking a message and claiming its jobs. It compares the actual contents, so a long backlog creates
no duplicates. A key that only the keeper writes distinguishes a Redis that lost everything from an empty one.

Each queue is read separately, a few thousand messages a turn, because other programs may write into its lists without
end. Its rows are judged after a reading has seen all four lists, and only rows that were published before that reading
began: a long reading finds missing hints later, and creates no duplicates.

The published rows are read through `esteira.db.walk`: usually all of them in each check. With a million dead entries in
their index, new rows are read at once and all others over time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings

from esteira.broker import lists
from esteira.broker.batching import known_queues
from esteira.broker.hint import LISTS, MARKER, ids_in, list_key
from esteira.broker.publisher import Publisher
from esteira.db import Db, Row
from esteira.db.walk import SLOW_S, Clock, Survey, Walk
from esteira.keeper.slices import Slice
from esteira.record import publish
from esteira.record.insert import SLICE

log = logging.getLogger("esteira.keeper")

#: A hint may take this long on its way to Redis and from there to a worker's claim.
GRACE_S = 2.0
#: About how many messages of one queue are read in a turn.
READ_MAX = 4000
#: A message may arrive while a list is read; this many more than its length are requested, to reach its end surely.
BEYOND = 20
#: From this many foreign messages in one list on, they are logged.
MANY_STRANGERS = 1000


@dataclass(slots=True)
class _Reading:
    """One reading of a queue's lists. `began` is the database's time; `at` is where each list continues."""

    began: float
    at: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LISTS, 0))
    present: set[str] = field(default_factory=set)
    ours: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LISTS, 0))
    others: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LISTS, 0))

    def add(self, number: int, messages: list[bytes], ended: bool) -> None:
        for message in messages:
            ids = _ids(message)
            self.present.update(ids)
            (self.ours if ids else self.others)[number] += 1
        self.at[number] += len(messages)
        if ended:
            del self.at[number]


class Reconciler:
    """Reads the lists and the published rows, a part of each in a turn, and compares them."""

    def __init__(self, publisher: Publisher, clock: Clock | None = None) -> None:
        self._publisher = publisher
        self._clock, self._now = clock or Clock(), -math.inf
        # Slightly later than the moment up to which rows are judged, because that one is rounded.
        self._rows = Survey(self._judge, walk=self._judge_some, delay_s=GRACE_S + 0.01)
        #: The walk that publishes everything again; it exists only while Redis is missing everything.
        self._refill: Walk | None = None
        #: The rows to publish again, each with the moment at which it was published.
        self._missing: dict[str, str] = {}
        self._slice = Slice(SLICE)
        self._readings: dict[str, _Reading] = {}
        self._read: dict[str, _Reading] = {}
        self._warned: set[str] = set()

    @property
    def walk(self) -> Walk:
        """The walk over all published rows, which shows its progress."""
        return self._rows.walk

    def start_over(self) -> None:
        """Forget everything read so far: another server has other rows."""
        self._rows.start_over()
        self._refill = None
        self._missing.clear()

    def reconcile(self, db: Db) -> bool:
        """Return whether hints were missing, so that the next slice should follow at once."""
        queues = sorted({*known_queues(), *_announced_queues(db)})
        now, went_back = self._clock.look(db)
        self._now = now
        if went_back:
            self._rows.start_over()
        wrong = self._publisher.read(
            lambda client: lists.replace_wrong_types(client, settings.ESTEIRA_REDIS_PREFIX, queues)
        )
        for key, kind in (wrong or {}).items():
            log.warning(
                "the key %r in Redis was a %s, a type that Esteira does not use there; it was deleted",
                key,
                kind,
            )
        marker = self._publisher.read(
            lambda client: client.exists(f"{settings.ESTEIRA_REDIS_PREFIX}{MARKER}")
        )
        if marker is None:
            return False
        if not marker:
            return self._start_over(db, now)
        self._refill = None
        self._readings = {queue: self._readings.get(queue) or _Reading(now) for queue in queues}
        self._read = {queue: reading for queue, reading in self._read.items() if queue in self._readings}
        if not self._publisher.read(self._read_on):
            return False
        self._note_ends()
        if not self._missing:
            self._rows.step(db, now)
        found = self._publish_again(db)
        if found:  # a lower number means that the others are claimed by now
            log.info("the hints of %s jobs were missing in Redis; they are published again", found)
        return bool(found or self._missing)

    def _start_over(self, db: Db, now: float) -> bool:
        """Publish every published row again, because Redis is empty."""
        self._readings, self._read = {}, {}
        refill = self._refill = self._refill or Walk(self._take_all)
        if not self._missing and not refill.been_through:
            # After the clock was set back, some rows have a moment in its future.
            refill.step(db, now, end=math.inf)
        found = self._publish_again(db)
        if found:
            log.warning("Redis has lost its contents; %s jobs are published again", found)
        if self._missing or not refill.been_through:
            return True
        self._refill = None
        self._publisher.read(lambda client: client.set(f"{settings.ESTEIRA_REDIS_PREFIX}{MARKER}", "1"))
        return found > 0

    def _read_on(self, client: Any) -> bool:
        """Continue reading every queue: the rest of its lists, up to a limit."""
        prefix = settings.ESTEIRA_REDIS_PREFIX
        keys = {(q, n): list_key(prefix, q, n) for q, reading in self._readings.items() for n in reading.at}
        lengths = lists.lengths(client, list(keys.values()))
        wanted, left = {}, dict.fromkeys(self._readings, READ_MAX)
        for (queue, number), key in keys.items():
            first = self._readings[queue].at[number]
            count = min(max(0, lengths[key] - first) + BEYOND, left[queue])
            if count:
                wanted[queue, number] = key, first, count
                left[queue] -= count
        parts = lists.read(client, list(wanted.values()))
        for (queue, number), (messages, ended) in zip(wanted, parts, strict=True):
            self._readings[queue].add(number, messages, ended)
        return True

    def _note_ends(self) -> None:
        """Store the results of complete readings, and pass on to publishing which lists hold foreign messages."""
        for queue in [queue for queue, reading in self._readings.items() if not reading.at]:
            reading = self._read[queue] = self._readings.pop(queue)
            self._publisher.say_ours(queue, {n: reading.ours[n] for n in LISTS if reading.others[n]})
            many = max(reading.others.values())
            if many >= MANY_STRANGERS and queue not in self._warned:
                log.warning(
                    "a list of the queue %s in Redis holds %s messages that are not hints; workers read them in their"
                    " turn, before hints that came later",
                    queue,
                    many,
                )
            (self._warned.add if many >= MANY_STRANGERS else self._warned.discard)(queue)

    def _judge(self, db: Db, after: float, until: float) -> bool:
        """Find the published rows that a complete reading of their queue's lists did not contain."""
        self._judge_for(math.inf, db, after, until)
        return False

    def _judge_some(self, db: Db, after: float, until: float) -> bool | float:
        return self._judge_for(SLOW_S, db, after, until)

    def _judge_for(self, patience_s: float, db: Db, after: float, until: float) -> bool | float:
        """Judge the newest first; return where to continue if that took longer."""
        stops = time.monotonic() + patience_s
        # Rows published in the last moments cannot be judged yet, and there may be many.
        until = min(until, self._now - GRACE_S)
        for page in _published(db, after, until):
            self._missing.update(
                {job: stamp for stamp, job, queue, at in page if self._misses(job, queue, at)}
            )
            if (at := _goes_on(page, until, stops)) is not None:
                return at
        return False

    def _misses(self, job: str, queue: str, at: float) -> bool:
        """Return whether a hint is missing; not yet known if it was published `at` a moment after the last reading."""
        reading = self._read.get(queue)
        if reading is not None:
            return at <= reading.began - GRACE_S and job not in reading.present
        return queue not in self._readings  # no worker reads this queue, so its lists hold nothing

    def _take_all(self, db: Db, after: float, until: float) -> bool | float:
        stops = time.monotonic() + SLOW_S
        for page in _published(db, after, until):
            self._missing.update({job: stamp for stamp, job, *_ in page})
            if (at := _goes_on(page, until, stops)) is not None:
                return at
        return False

    def _publish_again(self, db: Db) -> int:
        """Unpublish a slice of the jobs with missing hints; rows that have changed meanwhile are left alone."""
        part = {job: self._missing.pop(job) for job in list(self._missing)[: self._slice.rows]}
        if not part:
            return 0
        try:
            with self._slice.taken():
                return publish.unpublish(db, list(part), list(part.values()))
        except psycopg.errors.QueryCanceled:
            self._missing |= part  # after any other error the rows are found again
            raise


def _ids(message: bytes) -> list[str]:
    try:
        return ids_in(message)
    except ValueError:  # another program's message in the list; it names no job
        return []


def _published(db: Db, after: float, until: float) -> Iterator[list[Row]]:
    """Read the rows that were published after one moment and not after another, page by page, the newest first.

    Stamps and ids stay text: the keeper compares them, and must be able to read any value in a row. Each row has its
    queue and its moment. A page begins with the last row of the one before it.
    """
    asked: dict[str, Any] = {"after": after, "until": until, "limit": SLICE}
    asked |= {"first": _FIRST_ID if after == -math.inf else _LAST_ID, "stamp": None, "id": _LAST_ID}
    while page := db.fetch(_PUBLISHED, asked):
        yield page
        if len(page) < SLICE:
            return
        asked |= {"stamp": page[-1][0], "id": page[-1][1]}


def _goes_on(page: list[Row], until: float, stops: float) -> float | None:
    """Return where the next visit continues after a page, if it is time to stop and the page made progress."""
    at = float(page[-1][3])
    return at if len(page) == SLICE and at < until and time.monotonic() >= stops else None


_FIRST_ID, _LAST_ID = str(UUID(int=0)), str(UUID(int=2**128 - 1))
_PUBLISHED = """
SELECT j.published_at::text, j.id::text, j.queue, date_part('epoch', j.published_at)
FROM esteira_job j
WHERE j.state = 'queued' AND j.published_at IS NOT NULL
  AND (j.published_at, j.id) > (to_timestamp(%(after)s::float8), %(first)s::uuid)
  AND (j.published_at, j.id) <= (coalesce(%(stamp)s::timestamptz, to_timestamp(%(until)s::float8)), %(id)s::uuid)
ORDER BY j.published_at DESC, j.id DESC LIMIT %(limit)s"""


def _announced_queues(db: Db) -> list[str]:
    """Return the queues of workers of any release."""
    rows = db.fetch(
        """SELECT DISTINCT jsonb_array_elements_text(queues) FROM esteira_worker
           WHERE jsonb_typeof(queues) = 'array'"""
    )
    return [row[0] for row in rows if row[0] is not None]
