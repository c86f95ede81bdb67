"""Two PostgreSQL roles: one owns the tables and migrates, the other works with their rows and cannot change a table.

The setting DATABASE_OWNER, a dictionary like one of DATABASES, names the owner; DATABASES names the working role.
Without that setting, or if both are one role, this module does nothing. The working role is created if it is missing,
and its password is set to that of DATABASES if it cannot connect with it. So the next `migrate` corrects a new
installation, a restored one and one whose password was changed. Nothing is written if nothing is missing. The working
role may read, insert, change and delete rows, and nothing else: it can remove no guard, trigger or index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db import ProgrammingError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from esteira.errors import EsteiraError

#: The parts of a database's address, and of the login.
ADDRESS = ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
#: The rights of the working role on rows.
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
CONNECT_S = 3

Address = Mapping[str, Any]

#: The tables, or sequences, of the schema for which the role lacks a right; only the owner of a table can grant it.
_LACKING = """
    SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND pg_has_role(c.relowner, 'USAGE')
      AND CASE WHEN {kind} THEN NOT ({has}) ELSE false END"""
_KINDS = (
    (
        "TABLE",
        "r",
        _LACKING.format(
            kind="c.relkind IN ('r', 'p', 'v')",
            has=" AND ".join(f"has_table_privilege(%(role)s, c.oid, '{right}')" for right in RIGHTS),
        ),
        sql.SQL(", ".join(RIGHTS)),
    ),
    (
        "SEQUENCE",
        "S",
        _LACKING.format(kind="c.relkind = 'S'", has="has_sequence_privilege(%(role)s, c.oid, 'USAGE')"),
        sql.SQL("USAGE"),
    ),
)
#: Whether the working role gets rights on the tables that the owner creates later in the schema.
_HAS_LATER = """
    SELECT 1 FROM pg_default_acl d, aclexplode(d.defaclacl) a
    WHERE d.defaclrole = current_user::regrole AND d.defaclnamespace = current_schema()::regnamespace
      AND d.defaclobjtype = '{letter}' AND a.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)"""


class OwnerMayNot(EsteiraError):
    """The role that owns the tables may not create or change the working role."""

    code = "owner-may-not"
    status = 503


@contextmanager
def as_owner(alias: str = "default") -> Iterator[Address | None]:
    """Connect this thread as the owner during the block; yields the address of the working role, or None."""
    owner: Address = getattr(settings, "DATABASE_OWNER", None) or {}
    connection = connections[alias]
    working = {name: connection.settings_dict[name] for name in ADDRESS}
    if alias != "default" or not owner or owner["USER"] == working["USER"]:
        yield None
        return
    connection.close()
    connection.settings_dict.update({name: owner[name] for name in ADDRESS})
    try:
        yield working
    finally:
        connection.close()
        connection.settings_dict.update(working)


def let_work(working: Address, alias: str = "default") -> None:
    """Create the working role if it is missing, and grant its missing rights; the connection is the owner's.

    Runs in one process at a time, like migrations. Raises OwnerMayNot.
    """
    connection, role = connections[alias], str(working["USER"])
    try:
        if is_new := not _fetch(connection, "SELECT 1 FROM pg_roles WHERE rolname = %(role)s", role):
            _do(connection, "CREATE ROLE {} LOGIN", sql.Identifier(role))
        if is_new or not _gets_in(working):
            _set_password(connection, role, str(working["PASSWORD"]))
        _give_rights(connection, role)
    except ProgrammingError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        raise OwnerMayNot(role=role, reason=str(error).splitlines()[0]) from error


def _give_rights(connection: BaseDatabaseWrapper, role: str) -> None:
    """Give a role the rights on all existing rows, and on those of tables that are created later."""
    ask = "SELECT current_schema(), has_schema_privilege(%(role)s, current_schema(), 'USAGE')"
    ((name, may_use),) = _fetch(connection, ask, role)
    schema, to = sql.Identifier(name), sql.Identifier(role)
    if not may_use:
        _do(connection, "GRANT USAGE ON SCHEMA {} TO {}", schema, to)
    for kind, letter, lacking, rights in _KINDS:
        if found := [sql.SQL(each) for (each,) in _fetch(connection, lacking, role)]:
            _do(connection, f"GRANT {{}} ON {kind} {{}} TO {{}}", rights, sql.SQL(", ").join(found), to)
        if not _fetch(connection, _HAS_LATER.format(letter=letter), role):
            later = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{}} GRANT {{}} ON {kind}S TO {{}}"
            _do(connection, later, schema, rights, to)


def _gets_in(working: Address) -> bool:
    """Return whether the role can connect. After a failure for another reason, the same password is set again."""
    asked = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    given = {option: working[name] for option, name in asked.items() if working[name]}
    try:
        psycopg.connect(**{**working["OPTIONS"], **given, "connect_timeout": CONNECT_S}).close()
    except psycopg.OperationalError:
        return False
    return True


def _set_password(connection: BaseDatabaseWrapper, role: str, password: str) -> None:
    """Send the checksum that the server would store, so that no log of the server can contain the password."""
    connection.ensure_connection()
    kept = connection.connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    _do(connection, "ALTER ROLE {} LOGIN PASSWORD {}", sql.Identifier(role), sql.Literal(kept.decode()))


def _fetch(connection: BaseDatabaseWrapper, statement: str, role: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"role": role})
        return list(cursor.fetchall())


def _do(connection: BaseDatabaseWrapper, statement: str, *parts: sql.Composable) -> None:
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*parts))
