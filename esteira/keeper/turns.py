"""The steps of a keeper's turn, and what became of them: which went through, which fail, why and since when.

Steps are independent: one that fails is told and tried again in the next turn, and the others go on. A turn
counts as gone through only if none of them fails. What fails is stored by the keeper's first statement of the next turn
(`esteira.keeper.hold`), so telling it costs none of its own.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import NotSupportedError
from psycopg.errors import QueryCanceled

from esteira.db import BUSY, ConnectionLost, Unavailable
from esteira.values import spoken

log = logging.getLogger("esteira.keeper")

STEPS = ("rescue", "expire", "declarations", "schedules", "reconcile", "publish", "retention")
#: A failure that lasts is logged this often; it is stored in every turn.
REMIND_S = 60.0
#: Longest text of an error that is stored.
ERROR_MAX = 500

#: These say that a statement was refused, by a server that works: somebody holds a lock, the statement took too long,
#: a table or a right to it is missing. The step has failed, the database is not away.
_REFUSED = (*BUSY, QueryCanceled, NotSupportedError, Unavailable)


def is_absence(error: BaseException) -> bool:
    """Whether an error says that nobody could write to the database, so that leases may have ended for no reason."""
    return isinstance(error, ConnectionLost) and not isinstance(error, _REFUSED)


def said(error: BaseException) -> str:
    """Say an error in a text that can be stored, whatever its author put into it."""
    name, words = spoken.name_of(error), spoken.said(error).strip()
    text = f"{name}: {words}" if words else name
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()[:ERROR_MAX]


@dataclass(kw_only=True)
class _Failure:
    message: str
    since: datetime | None
    told: float


class Turns:
    """What became of this keeper's steps."""

    def __init__(self) -> None:
        self.me = f"{socket.gethostname()}:{os.getpid()}"
        self.whole = False
        self._failures: dict[str, _Failure] = {}

    def went_through(self, step: str) -> None:
        if self._failures.pop(step, None):
            log.info("the keeper's step %s goes through again", step)

    def failed(self, step: str, error: Exception, now: datetime | None) -> None:
        """Note a failure, and log it unless the same was logged a moment ago."""
        message, before = said(error), self._failures.get(step)
        if before and before.message == message and time.monotonic() - before.told < REMIND_S:
            return
        log.error(
            "the keeper's step %s failed; the others go on, and it is tried again: %s",
            step,
            message,
            exc_info=error,
        )
        since = before.since if before else now
        self._failures[step] = _Failure(message=message, since=since, told=time.monotonic())

    def end(self) -> bool:
        """End a turn in which every step that was due took its turn; return whether none fails."""
        self.whole = not self._failures
        return self.whole

    def cut_off(self) -> None:
        """End a turn that the database's absence ended."""
        self.whole = False

    def failing(self) -> dict[str, Any]:
        """Return what fails, as it is stored."""
        return {
            step: {"message": one.message, "since": one.since.isoformat() if one.since else None}
            for step, one in self._failures.items()
        }
