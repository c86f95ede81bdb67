"""Who may control a worker through Redis: by default no client, because every client that can log in there could.

Celery's remote control is a mailbox that all workers read, and Redis has one login for all components. Commands that
only read are answered, because Flower and `celery inspect` need them. Commands that change a worker are refused with an
explanation, unless CELERY_CONTROL is `all`: otherwise anybody with access to Redis could stop workers that look
healthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.control import Panel

log = logging.getLogger("esteira.worker")

Handler = Callable[..., Any]

#: The values of CELERY_CONTROL, one of Esteira's settings.
READ, ALL, OFF = "read", "all", "off"
#: Celery lists these as commands that change something, but Flower sends them, and their changes are harmless.
HARMLESS = frozenset({"enable_events", "heartbeat"})
#: Celery lists these as commands that only read, but they import revoked ids, write files, or block the event loop.
NOT_ONLY_READING = frozenset({"hello", "objgraph", "memdump", "memsample"})


def limit_remote_control(how: str) -> None:
    """Restrict this worker to the commands that CELERY_CONTROL allows; call it before Celery creates its mailbox."""
    if how != ALL:
        Panel.data = allowed(Panel.data)


def allowed(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Return handlers of the same names, with a refusal in place of each command that does more than read."""
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
            log.warning("the remote control command %s was refused; CELERY_CONTROL=all would allow it", name)
            told = True
        return {
            "error": f"{name} is refused: only commands that read are allowed (CELERY_CONTROL=all allows the others)"
        }

    return refuse
