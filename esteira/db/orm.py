"""Settings of Django's own connections when a process opens them: how they plan, read, log and wait.

The core's statements run on them inside callers' transactions (`db.DjangoConnection`), so they must plan and read like
the private ones. How long a wait may last depends on the process: a client waits for web's answer, but a job may run a
query for an hour. A project may have other databases besides Esteira's; one that is not PostgreSQL is left alone.
"""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from esteira.db import SERVER_FIRST_S, limit_waits, liveness
from esteira.db.readback import read_any_moment

#: Statements of milliseconds gain nothing from jit, and values must not be written to the server's log.
SESSION = {"jit": "off", "log_parameter_max_length_on_error": "0"}


#: A value in a database URL is text, and Django does not read "true" as True.
YES = ("true", "1", "yes", "on")


def settle_orm_connections() -> None:
    """Make the ORM's connections of this process plan, read and log like Esteira's private ones.

    One unreadable moment must not fail a whole list. PostgreSQL logs the text of a failed statement. An installation
    may send values separately from that text; this is not the default, because it limits what `bulk_create` takes at
    once.
    """
    options = connections["default"].settings_dict.setdefault("OPTIONS", {})
    if isinstance(said := options.get("server_side_binding"), str):
        options["server_side_binding"] = said.lower() in YES
    connection_created.connect(_settle, dispatch_uid="esteira.session")
    connection_created.connect(_read_any_moment, dispatch_uid="esteira.moments")


def _read_any_moment(connection: Any, **_: Any) -> None:
    if connection.alias == "default":
        read_any_moment(connection.connection, keep=True)


def _settle(connection: Any, **_: Any) -> None:
    if connection.alias == "default" and not _is_settled(connection):
        calls = [f"set_config('{name}', '{value}', false)" for name, value in SESSION.items()]
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(calls)}")


def session_settings(connection: Any, timeout_s: float) -> bytes:
    """Return the statement that restores, after a reset, the session settings of a pool process's ORM connections.

    Such a connection has the attribute `settled`.
    """
    wanted = {"TimeZone": connection.timezone_name, "tcp_user_timeout": str(int(timeout_s * 1000))}
    if connection.alias == "default":
        wanted.update(SESSION)
    quoted = {name: str(value).replace("'", "''") for name, value in wanted.items() if value}
    calls = [f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in quoted.items()]
    return f"SELECT {', '.join(calls)}".encode()


def watch_orm_connections(timeout_s: float) -> None:
    """Make the ORM's connections of this process notice a dead peer within `timeout_s`, on both sides."""
    connections["default"].settings_dict.setdefault("OPTIONS", {}).update(liveness(timeout_s))
    connection_created.connect(
        lambda connection, **_: _watch_server_side(connection, timeout_s),
        weak=False,
        dispatch_uid="esteira.liveness",
    )


def _watch_server_side(connection: Any, timeout_s: float) -> None:
    if not _is_postgresql(connection) or _is_settled(connection):
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tcp_user_timeout', %s, false)", [str(int(timeout_s * 1000))])


def answer_within(statement_s: float, lock_s: float) -> None:
    """Let no statement of this process's ORM connections take longer, for any fault of the server or the network.

    For processes that answer a waiting client. Locks have a shorter limit, so that the client gets an answer about the
    lock.
    """
    watch_orm_connections(statement_s)
    connection_created.connect(
        lambda connection, **_: _limit_statements(connection, statement_s, lock_s),
        weak=False,
        dispatch_uid="esteira.answer",
    )


def _limit_statements(connection: Any, statement_s: float, lock_s: float) -> None:
    if not _is_postgresql(connection):
        return
    limit_waits(connection.connection, statement_s + SERVER_FIRST_S)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false)",
            [str(int(statement_s * 1000)), str(int(lock_s * 1000))],
        )


def _is_postgresql(connection: Any) -> bool:
    return bool(connection.vendor == "postgresql")


def _is_settled(connection: Any) -> bool:
    return getattr(connection.connection, "settled", False)
