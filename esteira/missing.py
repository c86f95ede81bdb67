"""Is every published job's hint really in Redis? What is missing is fed again.

One comparison covers whatever can happen to a hint: a wiped or restarted Redis, an evicted key, a publish that failed,
a worker killed between taking a message and claiming its jobs. It compares what is there, so a long backlog makes no
duplicates. A key that only the keeper writes tells a Redis that lost everything from one that is merely empty.

Each queue is walked by itself, some thousand messages a turn, because strangers may write into its lists without end.
Its rows are judged once a walk has seen all four lists, and only those that were published before that walk began: a
long walk finds what is missing later, and doubles nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from esteira import lists
from esteira.db import Db
from esteira.depth import known_queues
from esteira.publish import Publisher
from esteira.record import insert
from esteira.record.insert import SLICE
from esteira.wire import LISTS, MARKER, UNACKED, UNACKED_INDEX, ids_in, list_key

log = logging.getLogger("esteira.keeper")

#: A hint may be on its way this long, to Redis and from there to a worker's claim.
GRACE_S = 2.0
#: Whoever listens to events and has not read this much by the time that Redis is full has stopped reading.
UNREAD_BYTES = 256 * 1024
#: How many messages of one queue a turn reads, about.
READ_MAX = 4000
#: A message may come in while a list is read; so much is asked for beyond its length, to be sure of its end.
BEYOND = 20
#: From so many messages of others in one list on, the log says so.
MANY_STRANGERS = 1000


@dataclass(slots=True)
class _Walk:
    """One walk over the lists of a queue. `began` is the database's time, as text; `at`: where each list goes on."""

    began: str
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


class Checker:
    """Walks over the lists and over the published rows, a part of each in a turn, and compares them."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._cursor: tuple[str, str] | None = None
        self._walks: dict[str, _Walk] = {}
        self._walked: dict[str, _Walk] = {}
        self._told: set[str] = set()

    def check(self, db: Db) -> bool:
        """Return whether hints were missing, so that the next slice should follow at once."""
        queues = sorted({*known_queues(), *_announced_queues(db)})
        began = db.fetch("SELECT clock_timestamp()::text")[0][0]
        wrong = self._publisher.read(
            lambda client: lists.replace_wrong_types(client, settings.REDIS_PREFIX, queues)
        )
        for key, kind in (wrong or {}).items():
            log.warning("the key %r in Redis was a %s, which nothing of ours is; it was deleted", key, kind)
        marker = self._publisher.read(lambda client: client.exists(f"{settings.REDIS_PREFIX}{MARKER}"))
        if marker is None:
            return False
        if not marker:
            return self._start_over(db)
        self._walks = {queue: self._walks.get(queue) or _Walk(began) for queue in queues}
        self._walked = {queue: walk for queue, walk in self._walked.items() if queue in self._walks}
        if not self._publisher.read(self._walk_on):
            return False
        self._note_ends()
        return self._judge(db)

    def relieve(self) -> None:
        """Make room in a full Redis: DEL is the one thing it still does. The hints are fed again, a few at a time."""
        keys = [
            list_key(settings.REDIS_PREFIX, queue, number) for queue in known_queues() for number in LISTS
        ]
        keys += [f"{settings.REDIS_PREFIX}{name}" for name in (UNACKED, UNACKED_INDEX, MARKER)]
        self._publisher.read(lambda client: client.delete(*keys), even_if_away=True)
        log.warning("Redis is full; its lists of hints were deleted and will be filled with fewer")
        if self._publisher.read(_hang_up, even_if_away=True):
            log.warning("a listener to events (Flower?) had stopped reading and filled Redis; it was cut off")

    def _start_over(self, db: Db) -> bool:
        """Redis is empty: every published row wants its hint again."""
        self._walks, self._walked = {}, {}
        rows = _published(db, None, {}, grace_s=0)
        if rows:
            found = insert.unpublish(db, [job for _, job, _, _ in rows], [stamp for stamp, *_ in rows])
            log.warning("Redis has lost its contents; %s jobs are fed again", found)
            if len(rows) == SLICE:
                return True
        self._cursor = None
        self._publisher.read(lambda client: client.set(f"{settings.REDIS_PREFIX}{MARKER}", "1"))
        return bool(rows)

    def _walk_on(self, client: Any) -> bool:
        """Read on in every queue: all that is there, if it is not too much."""
        prefix = settings.REDIS_PREFIX
        keys = {(q, n): list_key(prefix, q, n) for q, walk in self._walks.items() for n in walk.at}
        lengths = lists.lengths(client, list(keys.values()))
        wanted, left = {}, dict.fromkeys(self._walks, READ_MAX)
        for (queue, number), key in keys.items():
            first = self._walks[queue].at[number]
            count = min(max(0, lengths[key] - first) + BEYOND, left[queue])
            if count:
                wanted[queue, number] = key, first, count
                left[queue] -= count
        parts = lists.read(client, list(wanted.values()))
        for (queue, number), (messages, ended) in zip(wanted, parts, strict=True):
            self._walks[queue].add(number, messages, ended)
        return True

    def _note_ends(self) -> None:
        """Keep what whole walks have seen, and tell the feed which lists hold messages of others."""
        for queue in [queue for queue, walk in self._walks.items() if not walk.at]:
            walk = self._walked[queue] = self._walks.pop(queue)
            self._publisher.say_ours(queue, {n: walk.ours[n] for n in LISTS if walk.others[n]})
            many = max(walk.others.values())
            if many >= MANY_STRANGERS and queue not in self._told:
                log.warning(
                    "a list of the queue %s in Redis holds %s messages that are no hints; workers read them in their"
                    " turn, before hints that came later",
                    queue,
                    many,
                )
            (self._told.add if many >= MANY_STRANGERS else self._told.discard)(queue)

    def _judge(self, db: Db) -> bool:
        """Feed again those of the next published rows that a whole walk did not see."""
        began = dict.fromkeys(self._walks, "-infinity")
        began.update({queue: walk.began for queue, walk in self._walked.items()})
        rows = _published(db, self._cursor, began)
        self._cursor = rows[-1][0:2] if len(rows) == SLICE else None
        missing = [
            (stamp, job)
            for stamp, job, queue, judged in rows
            if judged and (queue not in self._walked or job not in self._walked[queue].present)
        ]
        found = insert.unpublish(db, [job for _, job in missing], [s for s, _ in missing]) if missing else 0
        if found:  # the others were on their way, and are claimed by now
            log.info("the hints of %s jobs are missing in Redis; they are fed again", found)
        return found > 0


def _ids(message: bytes) -> list[str]:
    try:
        return ids_in(message)
    except ValueError:  # somebody else's message in our list; it names no job of ours
        return []


def _hang_up(client: Any) -> int:
    """Cut off who lets events pile up: publishing them is what a full Redis never refuses."""
    deaf = [one for one in client.client_list(_type="pubsub") if int(one["omem"]) > UNREAD_BYTES]
    for one in deaf:
        client.client_kill_filter(_id=one["id"])
    return len(deaf)


def _published(
    db: Db, after: tuple[str, str] | None, began: dict[str, str], *, grace_s: float = GRACE_S
) -> list[tuple[str, str, str, bool]]:
    """Read a slice of the published rows in the order of their index, which no backlog makes longer.

    Each comes with whether it may be judged: it was published some time before the walk over its queue `began`. Queues
    over which nobody walks hold nothing. Times and ids stay text: the keeper compares them, and must be able to read
    whatever stands in a row.
    """
    beyond = "AND (j.published_at, j.id) > (%(stamp)s::timestamptz, %(id)s::uuid)" if after else ""
    rows = db.fetch(
        f"""SELECT j.published_at::text, j.id::text, j.queue,
              j.published_at <= coalesce((
                SELECT w.began FROM unnest(%(queues)s::text[], %(began)s::timestamptz[]) AS w(queue, began)
                WHERE w.queue = j.queue), clock_timestamp()) - %(grace)s * interval '1 second'
            FROM esteira_job j
            WHERE j.state = 'queued' AND j.published_at IS NOT NULL
              AND j.published_at <= (SELECT clock_timestamp()) - %(grace)s * interval '1 second' {beyond}
            ORDER BY j.published_at, j.id LIMIT %(limit)s""",
        {
            "grace": grace_s,
            "limit": SLICE,
            "queues": list(began),
            "began": list(began.values()),
            "stamp": after[0] if after else None,
            "id": after[1] if after else None,
        },
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _announced_queues(db: Db) -> list[str]:
    """Return queues of workers, whatever release they belong to."""
    rows = db.fetch("SELECT DISTINCT jsonb_array_elements_text(queues) FROM esteira_worker")
    return [row[0] for row in rows]
