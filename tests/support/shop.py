"""A worker and a keeper that run plain Celery tasks, beside the suite's servers: for the tests of one module."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from django.db import connection

from project.celery import app
from tests.support import plain_tasks
from tests.support.processes import Process
from tests.support.waiting import until

PACKAGES = "jobs,tests.support.plain_tasks"
LEASE_S = 2


class Shop:
    """The processes; tasks are sent by the test itself."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(exist_ok=True)
        env = {
            **os.environ,
            "JOB_PACKAGES": PACKAGES,
            "JOB_QUEUES": "mail",
            "LEASE_SECONDS": f"{LEASE_S}",
            "CONCURRENCY": "2",
        }
        celery = ["celery", "-A", "project"]
        self.worker = Process("worker", [*celery, "worker", "-l", "info"], env, logs)
        self.beat = Process("beat", [*celery, "beat", "-l", "info"], env, logs)

    def open(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(plain_tasks.TABLE)
        app.finalize()
        app.set_current()
        for process in (self.worker, self.beat):
            process.start()
        signs = [self.worker.run_dir / "worker.ready", self.beat.run_dir / "beat.ready"]
        until(lambda: all(sign.exists() for sign in signs), "the shop is open")

    def close(self) -> None:
        for process in (self.worker, self.beat):
            process.kill()


def a_run() -> str:
    """Return a new name for the effects of one test."""
    return uuid4().hex
