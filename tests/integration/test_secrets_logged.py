"""A statement that fails stands in PostgreSQL's log, whose readers are others: the values that it was given do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, connections

from esteira import Context, Secret, job
from esteira.db import DjangoConnection, PrivateConnection
from esteira.db.orm import settle_orm_connections
from esteira.models import Queue
from esteira.runner.runner import Runner
from tests.support.run_hints import run
from tests.support.servers import SuiteServers
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")
SECRET = "hunter2-4711"


@pytest.fixture
def logged(servers: SuiteServers) -> Callable[[], str]:
    """What PostgreSQL has written of its log since the test began, up to now."""
    start = servers.postgres.log.stat().st_size

    def read() -> str:
        mark = f"mark {uuid4()}"
        with psycopg.connect(servers.postgres.url) as db, pytest.raises(psycopg.errors.RaiseException):
            db.execute(f"DO $$ BEGIN RAISE EXCEPTION '{mark}'; END $$")

        def written() -> str:
            text = servers.postgres.log.read_bytes()[start:].decode(errors="replace")
            return text if mark in text else ""

        return until(written, "the log has come as far as the mark")

    return read


@pytest.fixture
def told_to_log_parameters(core: PrivateConnection) -> Iterator[None]:
    """A server whose own setting is to log the parameters of what fails, for connections made from here on."""
    name = core.fetch("SELECT current_database()")[0][0]
    core.fetch(f"ALTER DATABASE {name} SET log_parameter_max_length_on_error = -1")
    connection.close()
    core.close()
    yield
    core.fetch(f"ALTER DATABASE {name} RESET log_parameter_max_length_on_error")
    connection.close()


def by_the_orm(password: str) -> None:
    Queue.objects.create(name="twice", paused_by=password)


def by_sql(password: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO esteira_queue (name, paused_by, reason) VALUES ('twice', %s, '')", [password]
        )


def by_a_filter(password: str) -> None:
    list(Queue.objects.filter(paused_by=password).extra(where=["1 / length(name) = 1 / (length(name) - 5)"]))


@pytest.fixture
def values_beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation whose DATABASE_URL ends with `?server_side_binding=true`."""
    monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "server_side_binding", "true")
    settle_orm_connections()
    connection.close()
    yield
    connection.close()


@pytest.mark.usefixtures("told_to_log_parameters", "values_beside")
@pytest.mark.parametrize("statement", [by_the_orm, by_sql, by_a_filter])
def test_a_jobs_own_statement_that_fails_is_logged_without_its_secret(
    runner: Runner, logged: Callable[[], str], statement: Callable[[str], None]
) -> None:
    Queue.objects.create(name="twice", paused_by=SECRET)

    @job(name="test.login", retries=0)
    def login(ctx: Context, password: Secret) -> None:
        statement(password.get_secret_value())

    first, second = (login.submit(password=Secret(SECRET)).id for _ in range(2))
    states = [
        row.state for row in run(runner, first, second)
    ]  # the second has the reset connection of the first

    text = logged()
    assert states == ["failed", "failed"]
    assert text.count("STATEMENT:") >= 2
    assert SECRET not in text


@pytest.mark.usefixtures("told_to_log_parameters")
@pytest.mark.parametrize("kind", [PrivateConnection, DjangoConnection])
def test_a_statement_of_ours_that_fails_is_logged_without_its_values(
    core: PrivateConnection, logged: Callable[[], str], kind: type
) -> None:
    db = core if kind is PrivateConnection else DjangoConnection()

    with pytest.raises(Exception, match="division by zero"):
        db.fetch("SELECT 1 / (length(%s::text) - %s)", [SECRET, len(SECRET)])

    text = logged()
    assert "STATEMENT:  SELECT 1 / (length($1::text) - $2)" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("said", "meant"),
    [(True, True), ("true", True), ("on", True), (False, False), ("false", False), ("", False)],
)
def test_an_address_may_say_how_values_are_sent(
    monkeypatch: pytest.MonkeyPatch, said: object, meant: bool
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"server_side_binding": said})

    settle_orm_connections()

    assert connections["default"].settings_dict["OPTIONS"] == {"server_side_binding": meant}


def test_a_job_that_stores_many_rows_at_once_is_not_bounded_by_the_number_of_their_values(
    runner: Runner,
) -> None:
    @job(name="test.many_rows", retries=0)
    def store(ctx: Context) -> int:
        return len(Queue.objects.bulk_create(Queue(name=f"q{n}", paused_by="x") for n in range(20_000)))

    (row,) = run(runner, store.submit().id)

    assert (row.state, row.result) == ("succeeded", 20_000)
