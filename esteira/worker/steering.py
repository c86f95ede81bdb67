"""Who may steer a worker through Redis: everybody who can log in there, so by default nobody may.

Celery's remote control is a mailbox that all workers read, and Redis has one login for all parts. What only reads is
answered, because Flower and `celery inspect` live on it. What changes a worker is refused with a sentence, unless
CELERY_CONTROL says `all`: somebody who reached Redis could otherwise silence workers that look healthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.control import Panel

log = logging.getLogger("esteira.worker")

Handler = Callable[..., Any]

#: The values of CELERY_CONTROL, which is a setting of ours.
READ, ALL, OFF = "read", "all", "off"
#: Celery says of these that they change something, but Flower sends them, and they change nothing that matters.
HARMLESS = frozenset({"enable_events", "heartbeat"})
#: Celery says of these that they only look, but they take in revoked ids, write files, or hold the loop up.
NOT_ONLY_READING = frozenset({"hello", "objgraph", "memdump", "memsample"})


def limit_remote_control(how: str) -> None:
    """Let this worker answer what CELERY_CONTROL allows; call it before Celery makes its mailbox."""
    if how != ALL:
        Panel.data = allowed(Panel.data)


def allowed(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Return handlers of the same names, with a refusal in place of each that does not only read."""
    reading = _reading()
    return {name: one if name in reading else _refusal(name) for name, one in handlers.items()}


def _reading() -> set[str]:
    names = {name for name, about in Panel.meta.items() if about.type == "inspect"} - NOT_ONLY_READING
    aliases = {about.alias for name, about in Panel.meta.items() if name in names and about.alias}
    return names | aliases | HARMLESS


def _refusal(name: str) -> Handler:
    told = False

    def refuse(state: Any, **_: Any) -> dict[str, str]:
        nonlocal told
        if not told:
            log.warning("remote control: %s was refused; CELERY_CONTROL=all would allow it", name)
            told = True
        return {
            "error": f"{name} is refused: this worker may only be read (CELERY_CONTROL=all allows steering)"
        }

    return refuse
