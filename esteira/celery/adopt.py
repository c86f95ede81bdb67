"""Adopt a Celery app: replace its classes for sending, results and control, before or after its first use.

This imports no models, because `celery call` uses an app before Django is set up. Which tasks an app has is read later,
when a worker starts: shared tasks are imported after the app was made.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery, signals

from esteira.celery.send import Batch, batch_for
from esteira.celery.settle import Settler
from esteira.keeper.added_steps import ADDED

log = logging.getLogger("esteira.celery")

AMQP_CLASS = "esteira.celery.send:AMQP"
BACKEND_CLASS = "esteira.celery.results:Backend"
CONTROL_CLASS = "esteira.celery.control:Control"


def adopt(app: Celery) -> Celery:
    """Make all tasks of an app durable; to adopt an app twice changes nothing. Returns the app."""
    changed: Any = app
    if is_adopted(app):
        return app
    changed.amqp_cls, changed.backend_cls, changed.control_cls = AMQP_CLASS, BACKEND_CLASS, CONTROL_CLASS
    for cached in ("amqp", "control", "events"):
        vars(changed).pop(cached, None)
    changed._backend_cache = None
    vars(changed._local).pop("backend", None)

    def producer_or_acquire(producer: Any = None) -> AbstractContextManager[Batch]:
        """Hand out a batch: everything that is sent in one such block is stored together. No connection is opened."""
        return batch_for(app, producer)

    changed.producer_or_acquire = changed.default_producer = producer_or_acquire
    signals.beat_init.connect(_prepare_beat, dispatch_uid="esteira.celery.beat")
    return app


def _prepare_beat(sender: Any = None, **_: Any) -> None:
    """Let the keeper settle tasks; log the periodic tasks of the app that do not run, because beat is the keeper."""
    if not is_adopted(sender.app):
        return
    ADDED["settle"] = Settler(sender.app).step
    if entries := sorted(sender.app.conf.beat_schedule):
        log.error(
            "beat_schedule: these entries do not run, declare schedules instead: %s", ", ".join(entries)
        )


def is_adopted(app: Celery) -> bool:
    adopted: Any = app
    return bool(adopted.amqp_cls == AMQP_CLASS)
