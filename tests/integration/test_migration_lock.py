"""The gate of migrations, with real processes on databases of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from django.db import connection

from esteira import migration_lock
from esteira.db import DjangoConnection
from tests.support.servers import SuiteServers
from tests.support.waiting import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HOLD_THE_GATE = """
import django, time
django.setup()
from esteira import migration_lock
migration_lock.migrate_alone(lambda: (print("inside", flush=True), time.sleep(60)), alias="default", say=print)
"""
WAIT_AT_THE_GATE = """
import django
django.setup()
from esteira import migration_lock
migration_lock.wait_until_migrated(0.6)
"""


@pytest.fixture
def address(servers: SuiteServers) -> Iterator[str]:
    """An empty database of one test's own."""
    name = f"gate_{uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield servers.postgres.url.rsplit("/", 1)[0] + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def start(*arguments: str, address: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": address, "PYTHONUNBUFFERED": "1", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def migrate(*arguments: str, address: str) -> subprocess.Popen[str]:
    return start("manage.py", "migrate", *arguments, address=address)


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the process ended without saying {words!r}")


def test_three_processes_migrate_an_empty_database_at_once(address: str) -> None:
    said = [finished(p) for p in [migrate(address=address) for _ in range(3)]]

    assert sum(text.count("Applying esteira.0001_first") for text in said) == 1
    with psycopg.connect(address) as db:
        rows = db.execute("SELECT app, name FROM django_migrations").fetchall()
    assert len(rows) == len(set(rows)) >= 20


def test_who_waits_says_so_and_holds_no_transaction(address: str) -> None:
    finished(migrate(address=address))
    with psycopg.connect(address, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [migration_lock.LOCK_KEY])
        waiter = migrate(address=address)
        read_until(
            waiter, f"Waiting: another process (PostgreSQL backend {holder.info.backend_pid}) migrates"
        )

        holder.execute("SET statement_timeout = '20s'")
        holder.execute("CREATE INDEX CONCURRENTLY while_somebody_waits ON esteira_job (submitted_by)")

        assert waiter.poll() is None
        holder.execute("SELECT pg_advisory_unlock(%s)", [migration_lock.LOCK_KEY])
        assert "No migrations to apply" in finished(waiter)


def test_a_patient_release_waits_for_a_database_that_is_not_there_yet(address: str) -> None:
    """Any number of pods does so at once; each ends when the tables and the first account are there."""
    base, name = address.rsplit("/", 1)
    later = f"{name}_later"
    pods = [
        start("-m", "project.release", "patiently", address=f"{base}/{later}", ADMIN_PASSWORD="a long one")
        for _ in range(2)
    ]
    for pod in pods:
        read_until(pod, "does not answer")
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {later}")
        said = "".join(finished(pod) for pod in pods)
        with psycopg.connect(f"{base}/{later}") as db:
            accounts = db.execute("SELECT username FROM auth_user").fetchall()
        admin.execute(f"DROP DATABASE {later} WITH (FORCE)")

    assert accounts == [("admin",)]
    assert said.count("made the account admin") == 1


def test_a_release_says_in_a_sentence_that_the_database_is_away() -> None:
    release = start("-m", "project.release", address="postgresql://esteira@127.0.0.1:1/none")

    said, _ = release.communicate(timeout=60)

    assert release.returncode == 1
    assert said.startswith("The database at 127.0.0.1:1 does not answer.")
    assert "Traceback" not in said


def test_the_account_keeps_its_password_where_no_new_one_is_known(address: str) -> None:
    finished(start("-m", "project.release", address=address, ADMIN_PASSWORD="a long one"))
    with psycopg.connect(address, autocommit=True) as db:
        kept = db.execute("SELECT password FROM auth_user").fetchall()
        change = start("-m", "project.release", "password", address=address, ADMIN_PASSWORD="")
        said, _ = change.communicate(timeout=60)

        assert (change.returncode, db.execute("SELECT password FROM auth_user").fetchall()) == (1, kept)
    assert "ADMIN_PASSWORD" in said


def test_a_killed_migrator_lets_the_next_one_in(address: str) -> None:
    first = start("-c", HOLD_THE_GATE, address=address)
    read_until(first, "inside")
    second = migrate(address=address)
    read_until(second, "Waiting")

    first.send_signal(signal.SIGKILL)

    assert "Applying esteira.0001_first" in finished(second)
    first.communicate()


def test_a_table_in_use_is_not_queued_for_longer_than_two_seconds(address: str) -> None:
    finished(migrate(address=address))
    finished(migrate("esteira", "0001", address=address))
    with psycopg.connect(address) as user:
        user.execute("SELECT count(*) FROM esteira_job")  # an open transaction that reads the table
        user.execute("LOCK TABLE esteira_job IN ROW EXCLUSIVE MODE")
        migrator = migrate(address=address)
        read_until(migrator, "stepping back")
        user.commit()

    assert "Applying esteira.0002_sql... OK" in finished(migrator)


def test_plan_and_check_do_not_wait_for_the_gate(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [migration_lock.LOCK_KEY])

        assert "esteira.0001_first" in finished(migrate("--plan", address=address))
        check = migrate("--check", address=address)
        check.communicate(timeout=60)
        assert check.returncode == 1


def test_no_database_is_one_sentence() -> None:
    process = migrate(address="postgresql://nobody@127.0.0.1:1/none")

    said, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "The database at 127.0.0.1:1 does not answer. Start `make run`" in said
    assert "Traceback" not in said


def test_the_start_of_a_process_waits_for_an_absent_database_and_says_so() -> None:
    process = start("-c", WAIT_AT_THE_GATE, address="postgresql://nobody@127.0.0.1:1/none")

    said, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "NotMigrated: The database at 127.0.0.1:1 does not answer" in said


def test_an_empty_database_has_every_migration_pending(address: str) -> None:
    process = start("-c", WAIT_AT_THE_GATE, address=address)

    said, _ = process.communicate(timeout=60)

    assert "NotMigrated: Migrations are pending: admin.0001_initial, " in said
    assert "Run `manage.py migrate`" in said


@pytest.fixture
def one_pending(database: None) -> Iterator[Callable[[], None]]:
    """The suite's database without the mark of one migration; hands out the way to put it back."""

    def mark() -> None:
        DjangoConnection().fetch(
            """INSERT INTO django_migrations (app, name, applied) SELECT 'esteira', '0002_sql', now()
               WHERE NOT EXISTS (SELECT 1 FROM django_migrations WHERE app = 'esteira' AND name = '0002_sql')"""
        )

    DjangoConnection().fetch("DELETE FROM django_migrations WHERE app = 'esteira' AND name = '0002_sql'")
    yield mark
    mark()


def test_pending_names_what_this_release_needs(one_pending: Callable[[], None]) -> None:
    assert migration_lock.pending(DjangoConnection()) == ["esteira.0002_sql"]

    one_pending()

    assert migration_lock.pending(DjangoConnection()) == []


def test_a_process_passes_the_gate_once_the_migration_is_there(one_pending: Callable[[], None]) -> None:
    turns = threading.Event()
    waiter = threading.Thread(
        target=migration_lock.wait_until_migrated, args=[60], kwargs={"turn": turns.set}
    )
    waiter.start()
    assert turns.wait(20)  # it has looked, and waits
    assert waiter.is_alive()

    one_pending()

    waiter.join(20)
    assert not waiter.is_alive()


def test_the_gate_leaves_no_connection_behind(database: None) -> None:
    migration_lock.wait_until_migrated(20)

    def connections_of_the_gate() -> list[tuple[int]]:
        return DjangoConnection().fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'esteira gate'"
        )

    until(lambda: not connections_of_the_gate(), "the gate has closed its connection")


def test_a_newer_database_does_not_stop_an_older_release(database: None) -> None:
    DjangoConnection().fetch(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('esteira', '9999_later', now())"
    )
    try:
        assert migration_lock.pending(DjangoConnection()) == []
    finally:
        DjangoConnection().fetch("DELETE FROM django_migrations WHERE name = '9999_later'")
        connection.close()
