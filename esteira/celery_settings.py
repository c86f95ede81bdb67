"""The settings of Celery that jobs need, for any Celery app: `configure(app)` in the project's own `celery.py`.

Redis carries hints only, so these settings aim at quick recovery, not at safe messages (docs/architecture.md has the
reasons). They are applied when Celery reads its settings, so that importing `celery.py` needs no settings of Django.
What jobs need replaces the app's value; what is merely usual is left alone if the project sets it; all other settings
of the app, and its own tasks, stay as they are. A contradiction between the two stops the start. This module imports no
models: `celery call` and the project's package use the app before Django is set up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from esteira import defaults, switches


def configure(app: Celery, *, log_level: str = "") -> None:
    """Make this app's workers run jobs; `log_level` is that of worker and beat unless the command line has another."""
    switches.check(app, log_level=log_level)
    # Called when Celery reads the settings, or now if it has; an error of a signal's receiver would only be logged.
    app.add_defaults(lambda: _settled(app.conf))


def needed() -> dict[str, Any]:
    """Return the settings without which a hint would be lost, held back, or read by nobody."""
    return {
        "broker_url": settings.ESTEIRA_REDIS_URL,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "task_create_missing_queues": True,
        "worker_consumer": "esteira.worker.lifecycle:SteadyConsumer",
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": settings.ESTEIRA_CELERY_CONTROL != "off",
    }


def usual() -> dict[str, Any]:
    """Return the settings that a project may choose otherwise."""
    many = settings.ESTEIRA_CONCURRENCY
    return {
        "task_default_priority": 6,
        "task_send_sent_event": settings.ESTEIRA_CELERY_EVENTS,
        "worker_send_task_events": settings.ESTEIRA_CELERY_EVENTS,
        "worker_concurrency": many if many == "auto" else int(many),
        "worker_max_tasks_per_child": settings.ESTEIRA_MAX_JOBS_PER_CHILD,
        "worker_max_memory_per_child": settings.ESTEIRA_MAX_MEMORY_PER_CHILD_MB * 1024,
    }


def transport() -> dict[str, Any]:
    """Return the usual options of the Redis transport."""
    return {
        # Hints are not acknowledged. Any other task that waits or runs for longer than this is delivered a second time.
        "visibility_timeout": 3600,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 2,  # if Redis is frozen, the event loop waits for this time several times in a row
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "global_keyprefix": settings.ESTEIRA_REDIS_PREFIX,
    }


def _settled(source: Any) -> dict[str, Any]:
    """Change the settings in place; return no further defaults."""
    defaults.fill()
    own = type(source)({}, source.maps[:-1], source._keys, source.prefix)  # without Celery's defaults
    options = dict(own.get("broker_transport_options") or {})
    _refuse_contradictions(own, options)
    source.update(
        {
            **needed(),
            **{name: value for name, value in usual().items() if name not in own},
            "accept_content": sorted({*source.accept_content, "json"}),
            "broker_transport_options": {**transport(), **options},
        }
    )
    return {}


def _refuse_contradictions(own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    url, prefix = settings.ESTEIRA_REDIS_URL, settings.ESTEIRA_REDIS_PREFIX
    if not url:
        raise ImproperlyConfigured(
            "ESTEIRA_REDIS_URL is not set: write the address of the Redis that Celery uses."
        )
    if own.get("broker_url") not in (None, "", url):
        raise ImproperlyConfigured(
            "Celery's broker_url and ESTEIRA_REDIS_URL differ: workers read hints from the broker, so write one "
            "address for both, or leave broker_url out."
        )
    if options.get("global_keyprefix", prefix) != prefix:
        raise ImproperlyConfigured(
            "broker_transport_options has another global_keyprefix than ESTEIRA_REDIS_PREFIX: write the same for both."
        )
    if changed := sorted({"priority_steps", "queue_order_strategy", "sep"} & set(options)):
        raise ImproperlyConfigured(
            f"broker_transport_options has {', '.join(changed)}: remove it, because jobs use the lists that Celery "
            "has without it."
        )
