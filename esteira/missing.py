"""Is every published job's hint really in Redis? What is missing is fed again.

One comparison covers whatever can happen to a hint: a wiped or restarted Redis, an evicted key, a publish that failed,
a worker killed between taking a message and claiming its jobs. It compares what is there, so a long backlog makes no
duplicates. A key that only the keeper writes tells a Redis that lost everything from one that is merely empty.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from esteira.db import Db
from esteira.depth import known_queues
from esteira.publish import Publisher
from esteira.record import insert
from esteira.record.insert import SLICE
from esteira.wire import LISTS, UNACKED, UNACKED_INDEX, ids_in, list_key

log = logging.getLogger("esteira.keeper")

#: A hint may be on its way this long, to Redis and from there to a worker's claim.
GRACE_S = 2.0
#: Whoever listens to events and has not read this much by the time that Redis is full has stopped reading.
UNREAD_BYTES = 256 * 1024
MARKER = "filled"


class Checker:
    """Walks over the published rows, one slice a turn, and compares them with Redis."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._cursor: tuple[datetime, UUID] | None = None

    def check(self, db: Db) -> bool:
        """Return whether hints were missing, so that the next slice should follow at once."""
        queues = sorted({*known_queues(), *_published_queues(db)})
        read = self._publisher.read(lambda client: _read(client, queues))
        if read is None:
            return False
        marker, messages = read
        if not marker:
            return self._start_over(db)
        present = {job for message in messages for job in _ids(message)}
        rows = _published(db, self._cursor)
        self._cursor = rows[-1][0:2] if len(rows) == SLICE else None
        missing = [(stamp, job) for stamp, job in rows if str(job) not in present]
        if missing:
            found = insert.unpublish(db, [job for _, job in missing], [stamp for stamp, _ in missing])
            if found:  # the others were on their way, and are claimed by now
                log.info("the hints of %s jobs are missing in Redis; they are fed again", found)
            return found > 0
        return False

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
        rows = _published(db, None, grace_s=0)
        if rows:
            found = insert.unpublish(db, [job for _, job in rows], [stamp for stamp, _ in rows])
            log.warning("Redis has lost its contents; %s jobs are fed again", found)
            if len(rows) == SLICE:
                return True
        self._cursor = None
        self._publisher.read(lambda client: client.set(f"{settings.REDIS_PREFIX}{MARKER}", "1"))
        return bool(rows)


def _ids(message: bytes) -> list[str]:
    try:
        return ids_in(message)
    except ValueError:  # somebody else's message in our list; it names no job of ours
        return []


def _read(client: Any, queues: list[str]) -> tuple[bool, list[bytes]]:
    prefix = settings.REDIS_PREFIX
    pipe = client.pipeline(transaction=False)
    pipe.exists(f"{prefix}{MARKER}")
    for queue in queues:
        for number in LISTS:
            pipe.lrange(list_key(prefix, queue, number), 0, -1)
    marker, *lists = pipe.execute()
    return bool(marker), [message for messages in lists for message in messages]


def _hang_up(client: Any) -> int:
    """Cut off who lets events pile up: publishing them is what a full Redis never refuses."""
    deaf = [one for one in client.client_list(_type="pubsub") if int(one["omem"]) > UNREAD_BYTES]
    for one in deaf:
        client.client_kill_filter(_id=one["id"])
    return len(deaf)


def _published(
    db: Db, after: tuple[datetime, UUID] | None, *, grace_s: float = GRACE_S
) -> list[tuple[datetime, UUID]]:
    """Read a slice of the published rows in the order of their index, which no backlog makes longer."""
    beyond = "AND (j.published_at, j.id) > (%(stamp)s, %(id)s)" if after else ""
    rows = db.fetch(
        f"""SELECT j.published_at, j.id FROM esteira_job j
            WHERE j.state = 'queued' AND j.published_at IS NOT NULL
              AND j.published_at <= (SELECT clock_timestamp()) - %(grace)s * interval '1 second' {beyond}
            ORDER BY j.published_at, j.id LIMIT %(limit)s""",
        {
            "grace": grace_s,
            "limit": SLICE,
            "stamp": after[0] if after else None,
            "id": after[1] if after else None,
        },
    )
    return [(row[0], row[1]) for row in rows]


def _published_queues(db: Db) -> list[str]:
    """Return queues of workers, whatever release they belong to."""
    rows = db.fetch("SELECT DISTINCT jsonb_array_elements_text(queues) FROM esteira_worker")
    return [row[0] for row in rows]
