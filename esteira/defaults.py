"""Every setting of Esteira with its default: the one place that documents them.

A project sets `ESTEIRA_<NAME>` in its own settings; a name that it leaves out gets the default of this module.
REDIS_URL has no default, because a wrong guess would send hints to a Redis that no worker reads; `manage.py check`
reports a missing one. `fill` runs when Django loads the app, and when Celery reads its settings, whichever comes first.
Code reads `settings.ESTEIRA_<NAME>` afterwards. Durations are in the unit of their name, sizes in bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from django.conf import settings

PREFIX = "ESTEIRA_"
_HERE = Path(tempfile.gettempdir()) / f"esteira-{os.getuid()}"

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        # --- Redis: the address of hints, and what each key begins with; it must be Celery's global_keyprefix.
        "REDIS_URL": "",
        "REDIS_PREFIX": "",
        # --- Jobs: the packages with job types (none: the module `jobs` of each installed app), and further queues.
        "JOB_PACKAGES": (),
        "JOB_QUEUES": (),
        "LEASE_SECONDS": 10.0,
        "DRAIN_SECONDS": 25.0,
        "KEEPER_SECONDS": 0.5,
        "WINDOW": 1000,  # hints that wait in Redis for each queue
        "RETENTION_DAYS": 30.0,
        "FILES_MAX_TOTAL": 10 * 1024**3,
        "FILES_MAX_PER_ACCOUNT": 2 * 1024**3,
        # --- Workers: how many jobs at a time, and when a pool process is replaced.
        "CONCURRENCY": "auto",
        "MAX_JOBS_PER_CHILD": 20_000,
        "MAX_MEMORY_PER_CHILD_MB": 300,
        "CELERY_EVENTS": True,
        "CELERY_CONTROL": "read",  # or all, or off: the rights of remote control
        # --- Processes: where they touch their heartbeat files, and where commands put files for people.
        "RUN_DIR": str(_HERE / "run"),
        "DATA_DIR": str(_HERE),
        # --- Commands as people type them, for advice in errors.
        "MANAGE_COMMAND": "python manage.py",
        "MIGRATE_COMMAND": "python manage.py migrate",
        # --- The database's role that owns the tables and migrates, if it is another: one of DATABASES' dictionaries.
        "DATABASE_OWNER": MappingProxyType({}),
        # --- HTTP: public addresses for links, and the server of esteira_web.server.asgi.
        "WEB_URL": "",
        "FLOWER_URL": "",
        "BEHIND_TLS": False,
        "WEB_THREADS": 8,
        "METRICS_PORT": 9090,
    }
)


def fill() -> None:
    """Give each setting that the project leaves out its default."""
    for name, value in DEFAULTS.items():
        if not hasattr(settings, PREFIX + name):
            setattr(settings, PREFIX + name, value)
