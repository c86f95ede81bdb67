"""An installation that is run by `make` in a clone, and two releases of what runs in it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.support.checkout import ALONE, commit_all
from tests.support.compose_stack import ComposeStack

OLD = '''"""A shop, as the older release has it."""

import time

from esteira import Context, cron, job


@job(queue="orders", retries=0)
def order(ctx: Context, n: int) -> dict[str, object]:
    """Take an order."""
    return {"n": n, "by": "old"}


@job(retries=0)
def pack(ctx: Context, n: int, seconds: float = 0.2) -> dict[str, object]:
    """Pack a parcel."""
    time.sleep(seconds)
    return {"n": n}


@job(schedule=cron("0 3 * * *"))
def count(ctx: Context) -> None:
    """Count what is there."""
'''
NEW = (
    OLD.replace("n: int) -> dict", "n: int, gift: bool = False) -> dict", 1).replace('"old"', '"new"')
    + '''

@job(queue="orders", retries=0)
def refund(ctx: Context, n: int) -> dict[str, object]:
    """Give the money back."""
    return {"n": n, "by": "new"}
'''
)
#: The stack of a server, and the ports through which the tests look at its data.
STACK = """
name: esteira-operated
include:
  - path: [compose/data.yaml, compose/app.yaml, compose/backup.yaml, compose/exporters.yaml, compose/prod.yaml, ports.yaml]
    project_directory: .
"""
PORTS = """
services:
  postgres: {ports: ["127.0.0.1:${POSTGRES_PORT}:5432"], networks: [front, back]}
  redis: {ports: ["127.0.0.1:${REDIS_PORT}:6379"], networks: [front, back]}
"""


def release(repository: Path, shop: str) -> None:
    """Commit a release; a clone gets it by `git pull`."""
    (repository / "jobs" / "shop.py").write_text(shop)
    commit_all(repository, "All of it")


class Installation(ComposeStack):
    """A stack that is run by `make` in a clone."""

    def __init__(self, code: Path) -> None:
        project = f"esteira-ops-{os.getpid()}"
        self.code = code
        (code / "operated.yaml").write_text(STACK)
        (code / "ports.yaml").write_text(PORTS)
        super().__init__(
            project,
            file=code / "operated.yaml",
            COMPOSE_FILE=str(code / "operated.yaml"),
            IMAGE_PREFIX=f"{project}/",
            JOB_PACKAGES="jobs",
            CONCURRENCY="2",
            DRAIN_SECONDS="8",
            **ALONE,
        )

    def typed(self, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run what an operator types, however it ends; afterwards servers may be others."""
        self._forget()
        return super().typed(*arguments, **options)

    def tried_make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `make …` as an operator does, however it ends."""
        return self.typed(shlex.join(["make", *words]))

    def make(self, *words: str) -> str:
        return self.type(shlex.join(["make", *words]))

    def content(self) -> dict[str, str]:
        """Return a checksum of every table's rows."""
        tables = [
            row[0] for row in self.db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        return {
            table: self.db.one(
                f"SELECT count(*) || ' ' || md5(coalesce(string_agg(md5(t::text), '' ORDER BY t::text), '')) FROM {table} t"
            )
            for table in tables
        }

    def pause(self, queue: str) -> None:
        self.manage("shell", "-c", f"from esteira.operate import pause; pause({queue!r}, by='tests')")

    def resume(self, queue: str) -> None:
        self.manage("shell", "-c", f"from esteira.operate import resume; resume({queue!r}, by='tests')")

    def made_by(self, ids: list[str]) -> set[str]:
        rows = self.db.fetch(
            "SELECT DISTINCT result->>'by' FROM esteira_job WHERE id = ANY(%s::uuid[])", [ids]
        )
        return {row[0] for row in rows}
