"""The connection that sends and reads results: the caller's own, or a private one where Django refuses its own.

In a worker's attempt it is the core's connection, which is independent of the task's transactions. In asyncio code
Django refuses to use its connections, so a private one is opened for the call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import django
from django.apps import apps
from django.db import connections

from esteira.celery import current
from esteira.db import Db, DjangoConnection, PrivateConnection

#: How long a call in asyncio code waits for the database.
TIMEOUT_S = 5.0


def in_event_loop() -> bool:
    """Return whether Django refuses its connections here: inside a coroutine."""
    if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return False
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


@contextmanager
def database() -> Iterator[Db]:
    """Return a connection for reading and storing results."""
    unit = current.unit()
    if unit is not None:
        with unit.interrupt.shield():  # no time limit is raised in the middle of a statement
            yield unit.core
    else:
        with callers() as db:
            yield db


def set_up() -> None:
    """Set Django up if nobody has: `celery call` uses the app first. Then the job types are known, too."""
    if not apps.ready:
        django.setup()


@contextmanager
def callers() -> Iterator[Db]:
    """Return the connection whose transaction a send belongs to."""
    set_up()
    if not in_event_loop():
        yield DjangoConnection()
        return
    private = PrivateConnection("celery send", timeout_s=TIMEOUT_S)
    try:
        yield private
    finally:
        private.close()


def in_transaction() -> bool:
    """Return whether the caller has a transaction open on Django's connection."""
    return apps.ready and not in_event_loop() and connections["default"].in_atomic_block
