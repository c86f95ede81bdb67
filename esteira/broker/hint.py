"""The format of hints in Redis: kombu's keys and Celery's message, written and read only in this module.

A hint is an ordinary Celery message whose arguments are job ids and nothing else. It uses the anonymous exchange, so
that a wiped Redis has no bindings to lose. A test compares the keys and the parser with kombu's own.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from esteira.record.tasks import ARGS, KWARGS

#: Redis' lists in the order in which workers read them. Users see high, normal and low; 0 is for interrupted jobs.
FRONT = 0
LISTS = (FRONT, 3, 6, 9)
#: The Celery task whose messages are the hints of adopted tasks. Under a task's own name, a worker that has not adopted
#: would run the real task with the id of a job as its argument.
DOOR = "esteira.door"
#: How much of a task's arguments a hint shows; the row has more.
ARGUMENTS_SHOWN = 500
_SEPARATOR = "\x06\x16"
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"
UNACKED_MUTEX = "unacked_mutex"
#: The key that only the keeper writes: a Redis without it has lost everything.
MARKER = "filled"
#: kombu's tables of listeners to remote control and events.
BINDINGS = tuple(
    f"_kombu.{table}.{exchange}"
    for table in ("binding", "binding_permanent")
    for exchange in ("celery.pidbox", "reply.celery.pidbox", "celeryev")
)

#: Celery kills a pool process that exceeds the hard time limit by this much: it hangs in C code and cannot end itself.
#: Its leases have ended long before, and its jobs run elsewhere; this only frees its place in the pool. Celery counts
#: from the arrival of the hint, also while a claim or an outcome waits for an unavailable database, so this is longer
#: than outages are.
BACKSTOP_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """A message that names waiting jobs of one type in one queue. `list` is one of LISTS.

    `task` describes an adopted Celery task: its `id`, and its arguments as texts. Such a hint names one job.
    """

    type: str
    queue: str
    list: int
    ids: Sequence[UUID]
    hard_limit_s: float
    task: Mapping[str, str] | None = None
    delivery: str = field(default_factory=lambda: os.urandom(16).hex())

    def body(self) -> tuple[Sequence[str], dict[str, Any], dict[str, Any]]:
        return (
            [str(one) for one in self.ids],
            {},
            {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
        )

    def headers(self) -> dict[str, Any]:
        """Return the headers of Celery's message protocol 2."""
        named = self._named(self._said())
        return {
            "lang": "py",
            **named,
            "root_id": named["id"],
            "parent_id": None,
            "group": None,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [self.hard_limit_s + BACKSTOP_S, None],
            "origin": f"{os.getpid()}@{socket.gethostname()}",
            "ignore_result": True,
        }

    def message(self) -> str:
        """Return the message as kombu would put it into a list; building it here takes a tenth of the time."""
        body = base64.b64encode(json.dumps(self.body()).encode()).decode()
        if self.task is not None:
            return json.dumps(self._whole(body))
        frame = _frame(self.type, self.queue, self.list, self.hard_limit_s, os.getpid())
        return frame % {"body": body, "delivery": self.delivery, "said": self._said()}

    def _said(self) -> str:
        first, more = self.ids[0], len(self.ids) - 1
        return f"{first} and {more} more" if more else str(first)

    def _named(self, said: str) -> dict[str, str]:
        """Return the headers by which Celery's events, Flower and `celery inspect` name this message."""
        if self.task is None:
            return {"task": self.type, "id": self.delivery, "argsrepr": f"({said})", "kwargsrepr": "{}"}
        shown = {
            name: str(self.task.get(given, ""))[:ARGUMENTS_SHOWN]
            for name, given in (("argsrepr", ARGS), ("kwargsrepr", KWARGS))
        }
        return {
            "task": DOOR,
            "id": self.task["id"],
            "shadow": self.type,
            "delivery": self.delivery,
            **shown,
        }

    def _whole(self, body: str) -> dict[str, Any]:
        return {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": self.headers(),
            "properties": {
                "correlation_id": self.delivery,
                "delivery_mode": 1,
                "delivery_info": {"exchange": "", "routing_key": self.queue},
                "priority": self.list,
                "body_encoding": "base64",
                "delivery_tag": self.delivery,
            },
        }


#: What differs between messages that are alike, and random texts in its place, which no name can hold by chance.
_PLACES = {name: os.urandom(16).hex() for name in ("body", "delivery", "said")}


@lru_cache(maxsize=1024)
def _frame(name: str, queue: str, number: int, hard_limit_s: float, pid: int) -> str:
    """Return what messages that are alike have in common, with places for their bodies, ids and deliveries."""
    like = Hint(
        type=name,
        queue=queue,
        list=number,
        ids=[_PLACES["said"]],  # type: ignore[list-item]  # a mark in the place of an id
        hard_limit_s=hard_limit_s,
        delivery=_PLACES["delivery"],
    )
    frame = json.dumps(like._whole(_PLACES["body"])).replace("%", "%%")
    for place, mark in _PLACES.items():
        frame = frame.replace(mark, f"%({place})s")
    return frame


def marks_of_a_batch(type: str) -> tuple[str, str]:
    """Return two texts that are in each message that names several jobs of a type, and in no message of others."""
    return f'"task": {json.dumps(type)}, "id": ', ' more)", "kwargsrepr"'


def list_key(prefix: str, queue: str, number: int) -> str:
    """Return the Redis key of one of a queue's lists."""
    return f"{prefix}{queue}{_SEPARATOR}{number}" if number else f"{prefix}{queue}"


def behind_key(prefix: str, queue: str) -> str:
    """Return the Redis key with the lists of a queue that have waiting jobs; no queue name contains a dot."""
    return f"{prefix}behind.{queue}"


def ids_in(message: bytes | str | dict[str, Any]) -> list[str]:
    """Return the job ids that a message in a list names; raises ValueError if it is not one of Esteira's hints."""
    try:
        envelope = message if isinstance(message, dict) else json.loads(message)
        body = envelope["body"]
        if envelope["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        ids = json.loads(body)[0]
        if not (
            isinstance(ids, list) and ids and all(isinstance(one, str) and len(one) == 36 for one in ids)
        ):
            raise ValueError("not a hint: its arguments are not job ids")
        return ids
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a hint: {error}") from None


def ids_of(body: bytes | str) -> list[UUID]:
    """Return the job ids in a hint's decoded body; raises ValueError if there are none."""
    ids = ids_in({"body": body, "properties": {}})
    return [UUID(one) for one in ids]
