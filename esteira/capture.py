"""Keep what a job logs: whatever reaches Python's root logger from the job's own thread while it runs."""

from __future__ import annotations

import logging
import threading

from esteira.bounds import clean
from esteira.slot import Slot

#: The core's own words about a job are for the process's log.
NOT_THE_JOB = (
    "esteira.flush",
    "esteira.lease",
    "esteira.run",
    "esteira.publish",
    "celery.",
    "kombu.",
    "amqp",
)


class Capture(logging.Handler):
    """Adds lines to the running attempt; never touches the database."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self._slot, self._thread = slot, threading.get_ident()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        held = self._slot.running
        if held is None or record.thread != self._thread or record.name.startswith(NOT_THE_JOB):
            return
        try:
            held.say(clean(self.format(record)) + "\n")
        except Exception:  # a line that cannot be formatted must not fail the job
            self.handleError(record)
