"""Messages that a worker cannot run: hints of job types that only another release knows go back; others are dropped.

Every program that can write to Redis may have written a message. If an error from reading it left the event loop,
Celery would reconnect, kombu would put the message back to the place where workers read next, and the list would be
blocked for all workers. If the process dies here, the keeper finds that the hints are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from esteira.broker.hint import ids_of
from esteira.db import briefly
from esteira.record.claim import unpublish_unclaimed

log = logging.getLogger("esteira.worker")

#: Hints of unknown types are unpublished together, at most this much later.
STRAYS_S, STRAYS_HOLD_S = 0.2, 0.5
#: At most this many wait; the keeper handles further ids of one message.
STRAYS_MAX = 10_000

Handler = Callable[[Any], Any]


class Strays:
    """The jobs of hints whose type this release does not know; they go back to wait for publishing."""

    def __init__(self) -> None:
        self._ids: list[UUID] = []

    def take(self, message: Any) -> None:
        """Record the jobs of a message of an unknown type; raises nothing for any content."""
        try:
            found = ids_of(message.body)
        except Exception:
            log.warning(
                "a message of unknown type %s was not a hint; it is dropped",
                str(message.headers.get("task"))[:200],
            )
            return
        if len(self._ids) + len(found) > STRAYS_MAX:
            self.unpublish()
        self._ids += found[:STRAYS_MAX]

    def unpublish(self) -> None:
        """Unpublish these jobs, so that they are published again; a timer calls this while the worker is connected."""
        ids, self._ids = self._ids, []
        if not ids:
            return
        try:
            with briefly("worker strays") as db:
                unpublish_unclaimed(db, ids, hold_s=STRAYS_HOLD_S)
        except Exception as error:  # for any error, workers must go on reading the list
            log.warning(
                "%s hints of unknown types could not be unpublished; the keeper will find them: %s",
                len(ids),
                error,
            )


def surviving(handle: Handler, broken: tuple[type[BaseException], ...]) -> Handler:
    """Wrap Celery's message handler, which expects few errors: a message that cannot be handled is logged and dropped.

    `broken` are the errors that mean a lost connection. Celery counts every KeyError as one of them, but a message with
    a missing field raises a KeyError too.
    """

    def received(message: Any) -> None:
        try:
            handle(message)
        except Exception as error:
            if isinstance(error, broken) and not isinstance(error, KeyError):
                raise
            log.exception("a message from Redis cannot be handled; it is dropped")
            if not message.acknowledged:
                message.ack_log_error(log, broken)

    return received
