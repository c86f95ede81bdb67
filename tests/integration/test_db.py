"""The two ways to talk to PostgreSQL: inside the caller's transaction, and on a private connection."""

from __future__ import annotations

import os
import random
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import psutil
import psycopg
import pytest
from django.conf import settings
from django.db import close_old_connections, connection, transaction

from esteira.db import ConnectionLost, DjangoConnection, PrivateConnection, connect, liveness
from esteira.models import Job, Keeper
from project.local.embedded import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.django_db

NEW_QUEUE = "INSERT INTO esteira_queue (name, paused_by, reason) VALUES (%s, '', '')"
QUEUES = "SELECT name FROM esteira_queue ORDER BY name"
MY_PID = "SELECT pg_backend_pid()"


def test_every_test_finds_an_empty_database_with_the_keepers_row() -> None:
    assert Job.objects.count() == 0
    assert Keeper.objects.count() == 1


def test_the_orms_statements_belong_to_the_callers_transaction(core: PrivateConnection) -> None:
    with transaction.atomic():
        DjangoConnection().fetch(NEW_QUEUE, ["reports"])
        assert core.fetch(QUEUES) == []
        transaction.set_rollback(True)

    assert core.fetch(QUEUES) == []


def test_a_private_connection_does_not_see_a_jobs_own_transaction_and_is_not_in_it(
    core: PrivateConnection,
) -> None:
    with transaction.atomic():
        core.fetch(NEW_QUEUE, ["reports"])
        transaction.set_rollback(True)

    assert core.fetch(QUEUES) == [("reports",)]


@pytest.mark.parametrize("kind", [DjangoConnection, lambda: PrivateConnection("rollback")])
def test_an_exception_rolls_a_transaction_back(kind: type[DjangoConnection]) -> None:
    db = kind()

    with pytest.raises(ZeroDivisionError), db.transaction():
        db.fetch(NEW_QUEUE, ["reports"])
        raise ZeroDivisionError

    assert db.fetch(QUEUES) == []


def end_backend(core: PrivateConnection) -> None:
    """End the server's side of a private connection, as a restart of the database would."""
    DjangoConnection().fetch("SELECT pg_terminate_backend(%s)", [core.fetch(MY_PID)[0][0]])


def test_the_call_that_meets_a_broken_connection_says_so_and_the_next_one_works(
    core: PrivateConnection,
) -> None:
    end_backend(core)

    with pytest.raises(ConnectionLost):
        core.fetch(QUEUES)

    assert not core.connected()
    assert core.fetch(QUEUES) == []


def end_djangos_backend(core: PrivateConnection) -> None:
    """Return once it has ended: a statement that reaches it before is lost with it."""
    (pid,) = DjangoConnection().fetch(MY_PID)[0]
    core.fetch("SELECT pg_terminate_backend(%s)", [pid])
    until(lambda: not psutil.pid_exists(pid), "the server's process has ended")


def test_a_request_after_a_restart_of_the_database_meets_no_broken_connection(
    core: PrivateConnection,
) -> None:
    end_djangos_backend(core)
    close_old_connections()  # what Django does when a request starts

    assert DjangoConnection().fetch(QUEUES) == []


def test_a_program_without_requests_meets_a_broken_connection_once(core: PrivateConnection) -> None:
    """Nothing closes old connections there, and it would meet the same broken one for ever."""
    end_djangos_backend(core)

    with pytest.raises(ConnectionLost):
        DjangoConnection().fetch(QUEUES)

    assert DjangoConnection().fetch(QUEUES) == []


def test_a_broken_connection_stays_while_the_callers_transaction_does(core: PrivateConnection) -> None:
    """A new one would store half of what belongs together."""
    with pytest.raises(ConnectionLost), transaction.atomic():
        DjangoConnection().fetch(NEW_QUEUE, ["reports"])
        end_djangos_backend(core)
        with suppress(*ConnectionLost):
            DjangoConnection().fetch(NEW_QUEUE, ["mail"])
        DjangoConnection().fetch(NEW_QUEUE, ["images"])

    assert DjangoConnection().fetch(QUEUES) == []


def test_a_connection_that_breaks_in_a_transaction_takes_it_all_back(core: PrivateConnection) -> None:
    with pytest.raises(ConnectionLost), core.transaction():
        core.fetch(NEW_QUEUE, ["reports"])
        end_backend(core)
        core.fetch(NEW_QUEUE, ["mail"])

    assert core.fetch(QUEUES) == []


def test_a_value_that_is_refused_costs_no_connection_and_is_no_absence(core: PrivateConnection) -> None:
    pid = core.fetch(MY_PID)
    core.fetch(NEW_QUEUE, ["reports"])

    for sql, params in (
        (NEW_QUEUE, ["reports"]),  # class 23
        ("SELECT %s::text::int", ["x"]),  # class 22
    ):
        with pytest.raises(psycopg.Error) as raised:
            core.fetch(sql, params)
        assert not isinstance(raised.value, ConnectionLost)

    assert core.fetch(MY_PID) == pid


def test_a_key_that_is_longer_than_an_index_takes_is_the_values_fault(core: PrivateConnection) -> None:
    """Class 54 is an OperationalError to the driver, as a lost connection is."""
    pid = core.fetch(MY_PID)
    too_long = "".join(random.Random(1).choices(string.printable[:90], k=9000))

    for db in (core, DjangoConnection()):
        with pytest.raises(Exception) as raised:
            db.fetch("INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state)"
                     " VALUES (%s, '', '', 0, '[]', '[]', 0, 'up')", [too_long])  # fmt: skip
        assert not isinstance(raised.value, ConnectionLost)

    assert core.fetch(MY_PID) == pid


def test_a_read_only_server_is_an_absence_and_gets_a_new_connection(core: PrivateConnection) -> None:
    pid = core.fetch(MY_PID)
    core.fetch("SET default_transaction_read_only = on")

    with pytest.raises(ConnectionLost):
        core.fetch(NEW_QUEUE, ["reports"])

    assert core.fetch(MY_PID) != pid
    core.fetch(NEW_QUEUE, ["reports"])


def test_a_read_only_server_is_an_absence_in_a_transaction_too(core: PrivateConnection) -> None:
    pid = core.fetch(MY_PID)
    core.fetch("SET default_transaction_read_only = on")

    with pytest.raises(ConnectionLost), core.transaction():
        core.fetch(NEW_QUEUE, ["reports"])

    assert core.fetch(MY_PID) != pid


def test_a_read_only_server_is_an_absence_for_the_orms_statements(core: PrivateConnection) -> None:
    DjangoConnection().fetch("SET default_transaction_read_only = on")
    try:
        with pytest.raises(ConnectionLost):
            DjangoConnection().fetch(NEW_QUEUE, ["reports"])
    finally:
        connection.close()


def test_a_column_that_changes_under_a_prepared_statement_is_an_absence_of_one_statement(
    core: PrivateConnection,
) -> None:
    for _ in range(10):
        core.fetch("SELECT name, reason FROM esteira_queue")
    DjangoConnection().fetch("ALTER TABLE esteira_queue ALTER COLUMN name TYPE varchar(61)")
    try:
        with suppress(*ConnectionLost):
            core.fetch("SELECT name, reason FROM esteira_queue")

        assert core.fetch("SELECT name, reason FROM esteira_queue") == []
    finally:
        core.close()
        DjangoConnection().fetch("ALTER TABLE esteira_queue ALTER COLUMN name TYPE varchar(60)")


def test_a_statement_that_does_not_fit_the_tables_is_an_absence(core: PrivateConnection) -> None:
    """A migration of another release may have changed them; what was to be written is kept until they fit."""
    with pytest.raises(ConnectionLost, match="nowhere"):
        core.fetch("SELECT * FROM nowhere")


def test_somebodys_lock_costs_no_connection(core: PrivateConnection) -> None:
    pid = core.fetch(MY_PID)
    core.fetch("SET lock_timeout = '50ms'")

    with transaction.atomic():
        DjangoConnection().fetch("LOCK TABLE esteira_queue")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            core.fetch(QUEUES)

    assert core.fetch(MY_PID) == pid


def test_a_frozen_server_is_an_absence_although_its_connection_stays_open() -> None:
    core = PrivateConnection("frozen", timeout_s=1)
    pid = core.fetch(MY_PID)[0][0]
    backend = psutil.Process(pid)
    backend.suspend()
    try:
        with pytest.raises(ConnectionLost):
            core.fetch(QUEUES)

        assert core.fetch(MY_PID) != [(pid,)]
    finally:
        backend.resume()
        core.close()


def test_every_connection_says_utc_and_compiles_no_statement(core: PrivateConnection) -> None:
    """Whatever the server's own settings are: managed ones have jit on, and some have a zone of their own."""
    name = core.fetch("SELECT current_database()")[0][0]
    core.fetch(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    core.fetch(f"ALTER DATABASE {name} SET jit = on")
    core.close()
    connection.close()
    try:
        for db in (core, DjangoConnection()):
            assert db.fetch("SELECT current_setting('TimeZone'), current_setting('jit')") == [("UTC", "off")]
            assert db.fetch("SELECT clock_timestamp()")[0][0].utcoffset() == timedelta(0)
    finally:
        core.fetch(f"ALTER DATABASE {name} RESET timezone")
        core.fetch(f"ALTER DATABASE {name} RESET jit")
        core.close()
        connection.close()


def test_a_closed_connection_opens_again_when_it_is_used(core: PrivateConnection) -> None:
    first = core.fetch(MY_PID)
    core.close()
    core.close()

    assert core.fetch(MY_PID) != first


def test_a_forked_child_leaves_its_parents_connection_alone(core: PrivateConnection) -> None:
    before = core.fetch(MY_PID)
    child = os.fork()
    if child == 0:
        core.forget()
        os._exit(0 if core.fetch(MY_PID) != before else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert core.fetch(MY_PID) == before


def test_a_deadlock_is_tried_again(core: PrivateConnection) -> None:
    """Two statements lock two rows crosswise: the database ends one, and it must not be seen."""
    core.fetch(NEW_QUEUE, ["a"])
    core.fetch(NEW_QUEUE, ["b"])
    turn = threading.Barrier(2)
    both = """WITH first AS (UPDATE esteira_queue SET reason = 'x' WHERE name = %s RETURNING 1),
                pause AS MATERIALIZED (SELECT pg_sleep(0.2) FROM first)
              UPDATE esteira_queue SET reason = 'y' WHERE name = %s AND EXISTS (SELECT 1 FROM pause)"""

    def crosswise(names: list[str]) -> None:
        own = PrivateConnection(f"deadlock {names[0]}", timeout_s=30)
        own.fetch("SET deadlock_timeout = '50ms'")
        turn.wait()
        own.fetch(both, names)
        own.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(crosswise, [["a", "b"], ["b", "a"]]))

    assert core.fetch("SELECT count(*) FROM esteira_queue WHERE reason <> ''") == [(2,)]


def test_threads_share_a_private_connection_one_at_a_time(core: PrivateConnection) -> None:
    with ThreadPoolExecutor(8) as pool:
        pids = {rows[0][0] for rows in pool.map(lambda _: core.fetch(MY_PID), range(100))}

    assert len(pids) == 1


def test_a_private_connection_never_waits_longer_than_it_was_told(core: PrivateConnection) -> None:
    private = connect("impatient", timeout_s=1.5)
    try:
        shown = {
            name: private.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("statement_timeout", "lock_timeout", "application_name")
        }
        with pytest.raises(psycopg.errors.QueryCanceled):
            private.execute("SELECT pg_sleep(60)")
    finally:
        private.close()

    assert shown == {
        "statement_timeout": "1500ms",
        "lock_timeout": "1500ms",
        "application_name": "esteira impatient",
    }


@pytest.mark.parametrize("lease_s", [1.0, 2.5, 10.0, 60.0])
def test_a_dead_peer_is_noticed_within_about_a_lease(lease_s: float) -> None:
    said = liveness(lease_s)

    silence = said["keepalives_idle"] + said["keepalives_interval"] * said["keepalives_count"]
    assert silence <= max(4, lease_s)
    assert said["tcp_user_timeout"] == lease_s * 1000


def test_a_lease_is_the_usual_patience(core: PrivateConnection) -> None:
    assert core.fetch("SHOW statement_timeout")[0][0] == f"{settings.LEASE_SECONDS:g}s"


def test_a_database_that_is_away_is_gone_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "PORT", free_port())
    core = PrivateConnection("nobody", timeout_s=1)

    with pytest.raises(ConnectionLost):
        core.fetch(QUEUES)

    assert not core.connected()
