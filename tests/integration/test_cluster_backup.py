"""The scripts of k8s/backup on a real PostgreSQL: a dump whole or not at all, and the way back in one instant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.backup_scripts import NAME, BackupScripts, backup_scripts_at
from tests.support.servers import SuiteServers


@pytest.fixture
def nightly(servers: SuiteServers, tmp_path: Path) -> Iterator[BackupScripts]:
    with backup_scripts_at(servers.postgres, tmp_path) as found:
        yield found


def test_a_restore_brings_back_what_the_newest_dump_held(nightly: BackupScripts) -> None:
    nightly.back_up()
    nightly.add(2)

    ended, said = nightly.restore()

    assert ended == 0, said
    assert "is restored" in said
    assert nightly.rows() == [1]


def test_another_dump_is_taken_when_it_is_named(nightly: BackupScripts) -> None:
    older = nightly.back_up()
    older = older.rename(older.with_name("esteira-20250101T000000Z.dump"))
    nightly.add(2)
    nightly.back_up()

    ended, said = nightly.restore(FILE=older.name)

    assert ended == 0, said
    assert nightly.rows() == [1]


def test_only_the_newest_dumps_are_kept(nightly: BackupScripts) -> None:
    for day in range(1, 5):
        (nightly.folder / f"esteira-2025010{day}T000000Z.dump").touch()

    ended, said = nightly.run("backup", BACKUPS_KEPT="3")

    names = [path.name for path in nightly.files()]
    assert ended == 0, said
    assert names[:2] == ["esteira-20250103T000000Z.dump", "esteira-20250104T000000Z.dump"]
    assert len(names) == 3
    assert oct(nightly.files()[-1].stat().st_mode & 0o777) == "0o600"


def test_the_newest_dump_stays_whatever_is_to_be_kept(nightly: BackupScripts) -> None:
    ended, said = nightly.run("backup", BACKUPS_KEPT="0")

    assert ended == 0, said
    assert len(nightly.dumps()) == 1


def test_how_a_backup_ended_is_told_in_the_database_and_not_in_its_dumps(nightly: BackupScripts) -> None:
    with nightly.connect() as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON esteira_backup TO weak")
    try:
        ended, said = nightly.run("backup", PGUSER="weak", PGPASSWORD="weak")
        assert ended != 0 and "permission denied" in said
        assert nightly.told("dump") == (False, True)
    finally:
        with nightly.connect() as connection:
            connection.execute("DROP OWNED BY weak; DROP ROLE weak")

    nightly.back_up()
    assert nightly.told("dump") == (True, True)

    nightly.restore()
    assert nightly.told("dump") == (False, False), "a restored row would be as old as its dump"


def test_a_database_from_before_the_table_is_backed_up_as_well(nightly: BackupScripts) -> None:
    with nightly.connect() as connection:
        connection.execute("DROP TABLE esteira_backup")

    ended, said = nightly.run("backup")

    assert ended == 0, said
    assert "could not be written to esteira_backup" in said
    assert len(nightly.dumps()) == 1


def test_nothing_of_a_dump_that_failed_is_taken_for_one(nightly: BackupScripts) -> None:
    kept = nightly.back_up()

    ended, said = nightly.run("backup", PGDATABASE="nowhere", BACKUPS_KEPT="1")

    assert ended != 0
    assert "nowhere" in said
    assert [path.name for path in nightly.files() if path.suffix == ".dump"] == [kept.name]


def test_what_a_killed_run_left_is_cleared_by_the_next_one(nightly: BackupScripts) -> None:
    (nightly.folder / "esteira-20250101T000000Z.dump.part").touch()

    nightly.run("backup")

    assert [path.suffix for path in nightly.files()] == [".dump"]


def test_a_restore_is_refused_while_somebody_could_write(nightly: BackupScripts) -> None:
    nightly.back_up()
    nightly.add(2)

    with psycopg.connect(nightly.server.url, dbname=NAME, application_name="esteira worker"):
        ended, said = nightly.restore(PATIENCE="1")

    assert ended != 0
    assert said.count("1 × esteira worker from 127.0.0.1") == 2
    assert "After 1 s these are still connected" in said
    assert "Scale web, worker and beat to 0" in said
    assert nightly.rows() == [1, 2]


def test_a_restore_waits_for_those_that_were_told_to_stop(nightly: BackupScripts) -> None:
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
def test_a_damaged_dump_changes_nothing(nightly: BackupScripts, cut: int) -> None:
    dump = nightly.back_up()
    dump.write_bytes(dump.read_bytes()[: -cut if cut > 1 else 40])

    ended, _ = nightly.restore()

    assert ended != 0
    assert nightly.rows() == [1]


def test_a_dump_of_something_else_changes_nothing(nightly: BackupScripts) -> None:
    with nightly.connect() as connection:
        connection.execute("ALTER TABLE esteira_job RENAME TO other")
    nightly.back_up()
    with nightly.connect() as connection:
        connection.execute("ALTER TABLE other RENAME TO esteira_job")

    ended, said = nightly.restore()

    assert ended != 0
    assert "is no backup of Esteira" in said
    assert nightly.rows() == [1]


def test_without_a_dump_a_restore_says_so(nightly: BackupScripts) -> None:
    ended, said = nightly.restore()

    assert ended != 0
    assert "is not among the backups" in said
