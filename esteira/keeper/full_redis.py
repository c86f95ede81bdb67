"""Make room in a full Redis with DEL, the one command that still works; the hints are published again in steps.

Nothing is lost: the rows are in PostgreSQL, and without its marker Redis is refilled (`esteira.keeper.reconcile`). If
the process dies here, the next turn finds Redis full, or empty.
"""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings

from esteira.broker.batching import known_queues
from esteira.broker.hint import LISTS, MARKER, UNACKED, UNACKED_INDEX, list_key
from esteira.broker.publisher import Publisher

log = logging.getLogger("esteira.keeper")

#: A listener to events with more unread bytes than this, when Redis is full, has stopped reading.
UNREAD_BYTES = 256 * 1024


def make_room(publisher: Publisher) -> None:
    """Delete all lists of hints, and disconnect listeners to events that have stopped reading."""
    prefix = settings.ESTEIRA_REDIS_PREFIX
    keys = [list_key(prefix, queue, number) for queue in known_queues() for number in LISTS]
    keys += [f"{prefix}{name}" for name in (UNACKED, UNACKED_INDEX, MARKER)]
    publisher.read(lambda client: client.delete(*keys), even_if_away=True)
    log.warning("Redis is full; its lists of hints were deleted and will be refilled with fewer hints")
    if publisher.read(_disconnect_deaf, even_if_away=True):
        log.warning(
            "a listener to events (Flower?) had stopped reading and filled Redis; it was disconnected"
        )


def _disconnect_deaf(client: Any) -> int:
    """Disconnect listeners that let events pile up: a full Redis still accepts published events."""
    deaf = [one for one in client.client_list(_type="pubsub") if int(one["omem"]) > UNREAD_BYTES]
    for one in deaf:
        client.client_kill_filter(_id=one["id"])
    return len(deaf)
