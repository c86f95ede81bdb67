"""The steps of a keeper's turn and their results: which succeeded, which fail, why and since when.

Steps are independent: a failed step is logged and tried again in the next turn, and the others go on. A turn succeeds
only if none of its steps fails. The keeper's first statement of the next turn stores the failures
(`esteira.keeper.hold`), so reporting them needs no statement of its own.
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
#: A lasting failure is logged this often; it is stored in every turn.
REMIND_S = 60.0
#: The maximum length of a stored error text.
ERROR_MAX = 500

#: With these errors a working server refused a statement: another transaction holds a lock, the statement took too
#: long, or a table or a right to it is missing. The step has failed, but the database is available.
_REFUSED = (*BUSY, QueryCanceled, NotSupportedError, Unavailable)


def is_absence(error: BaseException) -> bool:
    """Return whether an error means that no process could write to the database.

    Leases may then have ended although their processes run.
    """
    return isinstance(error, ConnectionLost) and not isinstance(error, _REFUSED)


def said(error: BaseException) -> str:
    """Return a text for an error that can be stored, whatever characters its message holds."""
    name, words = spoken.name_of(error), spoken.said(error).strip()
    text = f"{name}: {words}" if words else name
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()[:ERROR_MAX]


@dataclass(kw_only=True)
class _Failure:
    message: str
    since: datetime | None
    told: float


class Turns:
    """The results of this keeper's steps."""

    def __init__(self) -> None:
        self.me = f"{socket.gethostname()}:{os.getpid()}"
        self.whole = False
        self._failures: dict[str, _Failure] = {}

    def went_through(self, step: str) -> None:
        if self._failures.pop(step, None):
            log.info("the keeper's step %s succeeds again", step)

    def failed(self, step: str, error: Exception, now: datetime | None) -> None:
        """Record a failure, and log it unless the same one was logged a moment ago."""
        message, before = said(error), self._failures.get(step)
        if before and before.message == message and time.monotonic() - before.told < REMIND_S:
            return
        log.error(
            "the keeper's step %s failed; the other steps go on, and it is tried again: %s",
            step,
            message,
            exc_info=error,
        )
        since = before.since if before else now
        self._failures[step] = _Failure(message=message, since=since, told=time.monotonic())

    def end(self) -> bool:
        """End a turn in which every due step was run; return whether none fails."""
        self.whole = not self._failures
        return self.whole

    def cut_off(self) -> None:
        """End a turn that was interrupted because the database is unavailable."""
        self.whole = False

    def failing(self) -> dict[str, Any]:
        """Return the failures in the form in which they are stored."""
        return {
            step: {"message": one.message, "since": one.since.isoformat() if one.since else None}
            for step, one in self._failures.items()
        }
