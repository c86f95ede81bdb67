"""Raise an error inside a job's function from another thread, and only there.

Only a signal to the main thread can interrupt a blocking call. It may arrive at any bytecode, so a flag shows whether
the user's function is running. Core work on its behalf (a completion, a file's chunk) is shielded: an error that is
sent meanwhile is raised when the shield ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the conversion to enumerations, which takes far longer
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL = signal.SIGUSR2


class Interrupt:
    """One per pool process; `send` may be called by any thread, the rest by the main thread only."""

    def __init__(self) -> None:
        self._inside: object = None
        self._wanted: tuple[object, BaseException] | None = None
        self._shields = 0

    def install(self) -> None:
        """Set the signal's handler, also if a library has replaced it; cheap enough to do after every job."""
        _signal.signal(SIGNAL, self._on_signal)

    def send(self, job: object, error: BaseException) -> None:
        """Raise an error inside this job's function, if the function still runs."""
        self._wanted = (job, error)
        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)

    def enter(self, job: object) -> None:
        """Mark the begin of the user's function: an error may be raised only from here to `leave`."""
        self._inside, self._shields = job, 0

    def leave(self) -> None:
        self._inside = None

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Delay errors while core code runs on behalf of the function."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self._raise_if_wanted()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._raise_if_wanted()

    def _raise_if_wanted(self) -> None:
        if self._wanted is None or self._shields or self._inside is None:
            return
        (job, error), self._wanted = self._wanted, None
        if job is self._inside:
            raise error
