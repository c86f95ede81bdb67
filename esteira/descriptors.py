"""Detect that this process cannot open anything any more: without file descriptors it can neither work nor report it.

A process at its limit (`ulimit -n`) keeps its existing connections, so it looks alive. It must end with an error, so
that its supervisor starts another one; no job is lost.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from contextlib import suppress

#: If no descriptor could be opened for this long, the process will not recover by itself.
PATIENCE_S = 5.0
#: More than a connection to the database needs, in addition to the descriptors that are open above the limit.
FEW = 64
NONE_LEFT = (errno.EMFILE, errno.ENFILE)


class Descriptors:
    """Tries from time to time to open a descriptor."""

    def __init__(self) -> None:
        self._none_since: float | None = None

    def exhausted(self) -> bool:
        """Try to open a descriptor; return True if none could be opened for `PATIENCE_S`."""
        now = time.monotonic()
        if _can_open():
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
        return self._none_since is not None and now - self._none_since >= PATIENCE_S


def words() -> str:
    """Describe the problem and the remedy."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"no file or connection could be opened for {PATIENCE_S:g} s, the limit is {limit} (ulimit -n); "
        "this process ends, so that it can be restarted"
    )


def allow_a_few_more() -> None:
    """Raise this process's own limit a little, if the system allows it: the hand-back needs a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft + FEW, hard))


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in NONE_LEFT
    return True
