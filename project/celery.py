"""The Celery app of this project; docs/architecture.md has the reasons for its settings."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.conf import settings

from esteira.celery import adopt
from esteira.celery_settings import configure
from project import logging as project_logging

app = Celery("esteira")
configure(app, log_level=settings.LOG_LEVEL)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_acks_late=False,
    task_default_queue="default",
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    beat_scheduler="esteira.keeper.scheduler:KeeperScheduler",
    timezone="UTC",
)


@signals.setup_logging.connect
def _log_as_every_process_does(loglevel: int, logfile: str | None, **_: Any) -> None:
    project_logging.configure(loglevel, settings.LOG_FORMAT, logfile)


adopt(app)
app.autodiscover_tasks()
