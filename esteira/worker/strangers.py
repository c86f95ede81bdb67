"""Messages that a worker cannot run: hints of types that another release knows go back, and all else is dropped.

Whoever can write to Redis may have written a message. If reading it raised an error out of the event loop, Celery would
connect anew, kombu would put the message back to where workers read next, and the list would stand still for all of
them. If the process dies here, the keeper finds the hints missing.
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

#: Hints of unknown types are put right together, at most this much later.
STRAYS_S, STRAYS_HOLD_S = 0.2, 0.5
#: So many wait at most; what one message names beyond that is left to the keeper.
STRAYS_MAX = 10_000

Handler = Callable[[Any], Any]


class Strays:
    """The jobs of hints that this release does not know (T14)."""

    def __init__(self) -> None:
        self._ids: list[UUID] = []

    def take(self, message: Any) -> None:
        """Remember the jobs of a message of an unknown type; raises nothing, whatever a stranger wrote."""
        try:
            found = ids_of(message.body)
        except Exception:
            log.warning(
                "a message of unknown type %s was no hint; it is dropped",
                str(message.headers.get("task"))[:200],
            )
            return
        if len(self._ids) + len(found) > STRAYS_MAX:
            self.unpublish()
        self._ids += found[:STRAYS_MAX]

    def unpublish(self) -> None:
        """Let them wait to be published again; a timer calls this as long as the worker is connected."""
        ids, self._ids = self._ids, []
        if not ids:
            return
        try:
            with briefly("worker strays") as db:
                unpublish_unclaimed(db, ids, hold_s=STRAYS_HOLD_S)
        except Exception as error:  # whatever it is, the list behind them must go on
            log.warning("%s hints of unknown types are left to the keeper: %s", len(ids), error)


def surviving(handle: Handler, broken: tuple[type[BaseException], ...]) -> Handler:
    """Wrap Celery's handler of messages, which expects few errors: one that cannot be handled is told and dropped.

    `broken` are the errors that mean a lost connection. Celery counts every KeyError as one, and a message that lacks
    something raises just that.
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
