"""The Celery app with all its settings (docs/architecture.md has the reasons and measurements).

Redis carries hints only, so the settings aim at quick recovery, not at safe messages: hints are not acknowledged, a
worker prefetches none, and results are stored in PostgreSQL.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.conf import settings

from esteira import switches
from esteira.celery import adopt
from project import logging as project_logging

app = Celery("esteira")
app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_channel_error_retry=True,
    broker_transport_options={
        # Hints are not acknowledged. Any other task that waits or runs for longer than this is delivered a second time.
        "visibility_timeout": 3600,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 2,  # if Redis is frozen, the event loop waits for this time several times in a row
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "global_keyprefix": settings.REDIS_PREFIX,
    },
    accept_content=["json"],
    task_serializer="json",
    task_acks_late=False,
    task_default_queue="default",
    task_default_priority=6,
    task_create_missing_queues=True,
    task_send_sent_event=settings.CELERY_EVENTS,
    worker_send_task_events=settings.CELERY_EVENTS,
    worker_consumer="esteira.worker.lifecycle:SteadyConsumer",
    worker_concurrency=settings.CONCURRENCY if settings.CONCURRENCY == "auto" else int(settings.CONCURRENCY),
    worker_disable_prefetch=True,
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=settings.MAX_JOBS_PER_CHILD,
    worker_max_memory_per_child=settings.MAX_MEMORY_PER_CHILD_MB * 1024,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_remote_control=settings.CELERY_CONTROL != "off",
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    beat_scheduler="esteira.keeper.scheduler:KeeperScheduler",
    timezone="UTC",
)


@signals.setup_logging.connect
def _log_as_every_process_does(loglevel: int, logfile: str | None, **_: Any) -> None:
    project_logging.configure(loglevel, settings.LOG_FORMAT, logfile)


adopt(app)
switches.check(app, log_level=settings.LOG_LEVEL)
app.autodiscover_tasks()
