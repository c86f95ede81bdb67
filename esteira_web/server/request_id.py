"""The id of the current request, for its answer and its log lines; empty outside of requests."""

from __future__ import annotations

import re
from contextvars import ContextVar
from uuid import uuid4

HEADER = "X-Request-ID"
current: ContextVar[str] = ContextVar("esteira_web.server.request_id", default="")
_SAFE = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


def request_id_of(given: str) -> str:
    """Return the caller's request id if it is safe to repeat, else a new one."""
    return given if _SAFE.fullmatch(given) else uuid4().hex
