"""What the keepers know of a worker: its name, that it lives, and what it serves."""

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
    """One worker's; it may go on under another name, which its later pool processes are forked with."""

    def __init__(self, worker: Any, me: Identity) -> None:
        self._worker, self.identity = worker, me

    def announce(self) -> None:
        """Tell the keepers that this worker lives, and what it serves."""
        try:
            with briefly("worker") as db:
                self.identity = identity.stay_known(
                    db, self.identity, queues=queues(self._worker.app), slots=slots(self._worker.pool)
                )
        except ConnectionLost as error:
            log.warning("the database does not know that this worker lives: %s", error)


def appear(worker: Any) -> Presence:
    """Take a name before the pool forks, however long the database is away."""
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
