"""A worker's row in the database, which keepers read: its name, its last heartbeat, its queues and slots."""

from __future__ import annotations

import logging
import time
from typing import Any

from esteira.db import ConnectionLost, briefly
from esteira.worker import identity
from esteira.worker.identity import Identity
from esteira.worker.ready import slots

log = logging.getLogger("esteira.worker")

PAUSE_S = 1.0


class Presence:
    """The row of one worker. The worker may get another name, which the pool processes that it forks later use."""

    def __init__(self, worker: Any, me: Identity) -> None:
        self._worker, self.identity = worker, me

    def announce(self) -> None:
        """Store that this worker is alive, with its queues and slots."""
        try:
            with briefly("worker") as db:
                self.identity = identity.stay_known(
                    db, self.identity, queues=queues(self._worker.app), slots=slots(self._worker.pool)
                )
        except ConnectionLost as error:
            log.warning("the heartbeat of this worker could not be stored: %s", error)


def appear(worker: Any) -> Presence:
    """Take a name before the pool forks; wait as long as the database is unavailable."""
    while True:
        try:
            with briefly("worker start") as db:
                me = identity.take_name(
                    db, worker.hostname, queues=queues(worker.app), slots=worker.concurrency
                )
            return Presence(worker, me)
        except ConnectionLost as error:
            log.warning("waiting for the database: %s", error)
            time.sleep(PAUSE_S)


def queues(app: Any) -> list[str]:
    return sorted(app.amqp.queues.consume_from)
