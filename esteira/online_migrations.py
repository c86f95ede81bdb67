"""Migration operations for a running system: no other process waits for them long, for any number of rows.

They belong in migrations with `atomic = False`, so that each step commits and releases its locks before the next one
begins. A migration that was interrupted at any point can be run again: finished steps are skipped, and an index whose
build was interrupted is rebuilt. Columns and constraints need an exclusive lock on a table for a moment, within the
`lock_timeout` that `esteira.migration_lock` sets. Steps that read all rows hold no lock that conflicts with a reader or
a writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations.operations import AddField, AlterField, CreateModel
from django.db.migrations.state import ProjectState
from django.db.models import ForeignKey, Index, Model
from psycopg.errors import DeadlockDetected, LockNotAvailable

from esteira.migration_lock import PATIENCE_S, NotMigrated

#: This many rows are processed between two commits, which takes a few milliseconds.
BATCH = 2000
#: If a row of a batch is locked for longer than this, the batch releases its other rows and tries again.
ROW_WAIT = "200ms"
ROW_PAUSE_S = 0.3


class AddColumn(AddField):
    """Add a column without a default or with a constant one, so that PostgreSQL rewrites no row."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if not self._is_there(schema_editor, to_state.apps.get_model(app_label, self.model_name)):
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if self._is_there(schema_editor, from_state.apps.get_model(app_label, self.model_name)):
            super().database_backwards(app_label, schema_editor, from_state, to_state)

    def _is_there(self, editor: DatabaseSchemaEditor, model: type[Model]) -> bool:
        column = next(field.column for field in model._meta.concrete_fields if field.name == self.name)
        return bool(
            _ask(
                editor.connection,
                "SELECT 1 FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s AND NOT attisdropped",
                [model._meta.db_table, column],
            )
        )


class LooseForeignKey(AlterField):
    """Drop a foreign key's constraint; before the reverse step adds it, `mend` repairs rows without a target."""

    def __init__(
        self,
        model_name: str,
        name: str,
        field: ForeignKey[Any, Any],
        *,
        mend: Callable[[BaseDatabaseWrapper], None],
    ) -> None:
        super().__init__(model_name, name, field)
        self._mend = mend

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        field: Any = model._meta.get_field(self.name)
        target = field.remote_field.model._meta.db_table
        name = schema_editor._create_index_name(
            model._meta.db_table, [field.column], suffix=f"_fk_{target}_{field.target_field.column}"
        )
        add_foreign_key(
            *(schema_editor, model._meta.db_table, name, field.column),
            references=target,
            how="DEFERRABLE INITIALLY DEFERRED",
            mend=lambda: self._mend(schema_editor.connection),
        )


class CreateTable(CreateModel):
    """Create a table together with its indexes, or nothing; Django creates those at the end of the migration."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if not self._is_there(schema_editor, to_state.apps.get_model(app_label, self.name)):
            with schema_editor.connection.schema_editor(atomic=True) as whole:
                super().database_forwards(app_label, whole, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if self._is_there(schema_editor, from_state.apps.get_model(app_label, self.name)):
            super().database_backwards(app_label, schema_editor, from_state, to_state)

    def _is_there(self, editor: DatabaseSchemaEditor, model: type[Model]) -> bool:
        return bool(_ask(editor.connection, "SELECT to_regclass(%s)", [model._meta.db_table]))


class PutIndex(AddIndexConcurrently):
    """Build an index next to the old one of its name, if any, which is used until the new one is complete."""

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        if _named(state, app_label, self.model_name_lower, self.index.name):
            state.remove_index(app_label, self.model_name_lower, self.index.name)
        super().state_forwards(app_label, state)

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._ensure_not_in_transaction(schema_editor)
        put_index(schema_editor, to_state.apps.get_model(app_label, self.model_name), self.index)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._ensure_not_in_transaction(schema_editor)
        model = to_state.apps.get_model(app_label, self.model_name)
        if before := _named(to_state, app_label, self.model_name_lower, self.index.name):
            put_index(schema_editor, model, before)
        else:
            drop_index(schema_editor, model, self.index)


class DropIndex(RemoveIndexConcurrently):
    """Drop an index that is not used any more."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._ensure_not_in_transaction(schema_editor)
        index = from_state.models[app_label, self.model_name_lower].get_index_by_name(self.name)
        drop_index(schema_editor, from_state.apps.get_model(app_label, self.model_name), index)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._ensure_not_in_transaction(schema_editor)
        index = to_state.models[app_label, self.model_name_lower].get_index_by_name(self.name)
        put_index(schema_editor, to_state.apps.get_model(app_label, self.model_name), index)


def put_index(editor: DatabaseSchemaEditor, model: type[Model], index: Index) -> None:
    """Build the index of that name, valid and as declared; one of the old and the new one always exists."""
    wanted, coming = _wanted(editor, model, index), _next(index)
    with _unhurried(editor.connection):
        if _standing(editor, index) != wanted:
            if _standing(editor, coming) != wanted:
                editor.remove_index(model, coming, concurrently=True)
                editor.add_index(model, coming, concurrently=True)
            editor.remove_index(model, index, concurrently=True)
            editor.execute(
                f"ALTER INDEX {editor.quote_name(coming.name)} RENAME TO {editor.quote_name(index.name)}"
            )
        editor.remove_index(model, coming, concurrently=True)


def drop_index(editor: DatabaseSchemaEditor, model: type[Model], index: Index) -> None:
    """Drop the index, and the rest of an interrupted build of it."""
    with _unhurried(editor.connection):
        editor.remove_index(model, index, concurrently=True)
        editor.remove_index(model, _next(index), concurrently=True)


def add_foreign_key(
    editor: DatabaseSchemaEditor,
    table: str,
    name: str,
    column: str,
    *,
    references: str,
    how: str = "ON DELETE CASCADE",
    mend: Callable[[], None] | None = None,
) -> None:
    """Add a foreign key; existing rows are checked in a separate step, before which `mend` is called."""
    quoted = {key: editor.quote_name(value) for key, value in {"t": table, "n": name, "c": column}.items()}
    if not _ask(
        editor.connection,
        "SELECT 1 FROM pg_constraint WHERE conname = %s AND conrelid = %s::regclass",
        [name, table],
    ):
        editor.execute(
            "ALTER TABLE {t} ADD CONSTRAINT {n} FOREIGN KEY ({c}) REFERENCES {r} {how} NOT VALID".format(
                **quoted, r=editor.quote_name(references), how=how
            )
        )
    if mend:
        mend()
    editor.execute("ALTER TABLE {t} VALIDATE CONSTRAINT {n}".format(**quoted))


def in_batches(connection: BaseDatabaseWrapper, table: str, sql: str, *, rows: int = BATCH) -> None:
    """Run `sql` for one span of ids after the other, each with a commit: from %(start)s on, before %(end)s or NULL."""
    start: UUID | None = UUID(int=0)
    while start:
        end = _ask(
            connection, f"SELECT id FROM {table} WHERE id >= %s ORDER BY id OFFSET %s LIMIT 1", [start, rows]
        )
        _batch(connection, table, sql, {"start": start, "end": end})
        start = end


def _batch(connection: BaseDatabaseWrapper, table: str, sql: str, span: Mapping[str, UUID | None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [ROW_WAIT])
                cursor.execute(sql, span)
            return
        except OperationalError as error:
            if not isinstance(error.__cause__, (LockNotAvailable, DeadlockDetected)):
                raise
            if time.monotonic() > deadline:
                raise NotMigrated(
                    "rows-in-use", table=table, seconds=PATIENCE_S, command=settings.MIGRATE_COMMAND
                ) from error
            time.sleep(ROW_PAUSE_S)


@contextmanager
def _unhurried(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Let a concurrent build wait for older transactions: no other process queues behind it meanwhile.

    A time limit would also end this wait, and leave an invalid index behind.
    """
    before = _ask(connection, "SELECT current_setting('lock_timeout')", [])
    _ask(connection, "SELECT set_config('lock_timeout', '0', false)", [])
    try:
        yield
    finally:
        if connection.is_usable():
            _ask(connection, "SELECT set_config('lock_timeout', %s, false)", [before])


def _named(state: ProjectState, app_label: str, model: str, name: str) -> Index | None:
    indexes = state.models[app_label, model].options.get("indexes", [])
    return next((index for index in indexes if index.name == name), None)


def _next(index: Index) -> Index:
    coming = index.clone()
    coming.name = f"{index.name}_next"
    return coming


def _wanted(editor: DatabaseSchemaEditor, model: type[Model], index: Index) -> str:
    """Let PostgreSQL print the declared definition, from an empty table with the same columns."""
    table = model._meta.db_table
    statement = index.create_sql(model, editor)
    statement.rename_table_references(table, "esteira_blank")
    with transaction.atomic(using=editor.connection.alias), editor.connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TEMPORARY TABLE esteira_blank (LIKE {editor.quote_name(table)}) ON COMMIT DROP"
        )
        cursor.execute(str(statement), None)
        return str(_standing(editor, index, schema="pg_temp."))


def _standing(editor: DatabaseSchemaEditor, index: Index, *, schema: str = "") -> str | None:
    """Return the definition of a valid index without its name and its table's; None if there is none."""
    found: str | None = _ask(
        editor.connection,
        """SELECT substr(d.sql, strpos(d.sql, ' USING ')) FROM pg_index i, pg_get_indexdef(i.indexrelid) AS d(sql)
           WHERE i.indexrelid = to_regclass(%s) AND i.indisvalid AND i.indisready""",
        [schema + editor.quote_name(index.name)],
    )
    return found


def _ask(connection: BaseDatabaseWrapper, sql: str, values: list[Any]) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        row = cursor.fetchone()
    return row[0] if row else None
