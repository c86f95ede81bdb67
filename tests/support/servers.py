"""The suite's own PostgreSQL and Valkey: addresses at once, processes only when a test needs them.

Settings read their addresses when Django loads, long before the first test runs, so ports and passwords are
chosen here at import and put into the environment. They replace whatever was there: the suite empties its
database before each test, and that must never be somebody's own. Durability is off; the chaos tests start
durable servers for themselves.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from project.local.embedded import Postgres, Valkey

FAST_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class SuiteServers:
    """One PostgreSQL and one Valkey in a temporary folder, for one run of the suite."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="esteira-tests-"))
        self.home.chmod(0o711)  # PostgreSQL refuses root and then runs as somebody who must get through
        self.postgres = Postgres(self.home / "postgres", options=FAST_NOT_DURABLE)
        self.valkey = Valkey(self.home / "redis")

    def settle_environment(self) -> None:
        """Point this process, and the ones it starts, at these servers and at temporary folders."""
        os.environ.update(
            DJANGO_SETTINGS_MODULE="project.settings",
            SECRET_KEY="for-tests-only",
            DATABASE_URL=self.postgres.url,
            REDIS_URL=self.valkey.url,
            DATA_DIR=str(self.home / "data"),
            RUN_DIR=str(self.home / "run"),
            EMAIL_URL="memorymail://",
        )
        for name in ("DATABASE_URL_FILE", "REDIS_URL_FILE", "SECRET_KEY_FILE"):
            os.environ.pop(name, None)

    def start(self) -> None:
        for folder in ("data", "run"):
            (self.home / folder).mkdir(exist_ok=True)
        self.valkey.start()
        self.postgres.start()

    def stop(self) -> None:
        self.postgres.stop("immediate")
        self.valkey.kill()
        shutil.rmtree(self.home, ignore_errors=True)
