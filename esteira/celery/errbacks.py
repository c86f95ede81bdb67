"""Errbacks: those that are tasks are sent with the end that they follow, those that are functions run after its commit.

Which is which, Celery's backend decides by the errback's signature; nothing of the user's runs while the row is locked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from celery import group
from celery.exceptions import NotRegistered

log = logging.getLogger("esteira.celery")


def divided(backend: Any, errbacks: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return the errbacks that are called in place, and those that are sent."""
    called: list[Any] = []
    sent: list[Any] = []
    for one in errbacks:
        errback = backend.app.signature(one)
        if not errback._app:
            errback._app = backend.app
        (called if _is_called(backend, errback) else sent).append(errback)
    return called, sent


def _is_called(backend: Any, errback: Any) -> bool:
    """Return what Celery decides in `_call_task_errbacks`; a task that this worker does not know is sent."""
    try:
        header = getattr(errback.type, "__header__", None)
    except NotRegistered:
        return False
    return (
        header is not None and not isinstance(header, partial) and backend._errback_arity_greater(errback, 1)
    )


def send(app: Any, errbacks: list[Any], request: Any) -> None:
    task_id = request.id
    group(errbacks, app=app).apply_async(
        (task_id,), parent_id=task_id, root_id=getattr(request, "root_id", None) or task_id
    )


def call(errbacks: list[Any], request: Any, exc: Any, traceback: Any) -> None:
    """Call errbacks in place; their errors are logged, because the task has ended already."""
    for errback in errbacks:
        try:
            errback(request, exc, traceback)
        except Exception:
            log.exception("errback %s raised an error", errback.name)
