"""Whether this process can still open anything: without descriptors it can neither work nor say that it cannot.

A process at its limit (`ulimit -n`) keeps the connections that it has, so it looks alive. It must end with an error, so
that whoever supervises it starts another; nothing is lost by that.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from contextlib import suppress

#: For so long in a row no descriptor could be opened: it will not get better by itself.
PATIENCE_S = 5.0
#: More than a connection to the database needs, beside those that are open above the limit.
FEW = 64
NONE_LEFT = (errno.EMFILE, errno.ENFILE)


class Descriptors:
    """Tries to open one now and then."""

    def __init__(self) -> None:
        self._none_since: float | None = None

    def exhausted(self) -> bool:
        """Try to open a descriptor; true if none could be opened for `PATIENCE_S`."""
        now = time.monotonic()
        if _can_open():
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
        return self._none_since is not None and now - self._none_since >= PATIENCE_S


def words() -> str:
    """Say what is wrong and what helps."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"no file or connection could be opened for {PATIENCE_S:g} s, the limit is {limit} (ulimit -n); "
        "this process ends, so that it can be started anew"
    )


def allow_a_few_more() -> None:
    """Raise this process's own limit a little, if the system lets it: what it says last needs a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft + FEW, hard))


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in NONE_LEFT
    return True
