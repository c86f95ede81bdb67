"""Every operation of `esteira.online_migrations`, on tables that a running release reads and writes."""

from typing import Any

from django.db import migrations
from django.db.models import (
    CASCADE,
    BigAutoField,
    BooleanField,
    ForeignKey,
    Index,
    Q,
    TextField,
    UniqueConstraint,
)

from esteira.online_migrations import (
    AddColumn,
    CreateTable,
    DropIndex,
    LooseForeignKey,
    PutIndex,
    add_foreign_key,
    in_batches,
)

MARK = """
UPDATE esteira_job SET marked = true
WHERE id >= %(start)s AND (%(end)s::uuid IS NULL OR id < %(end)s::uuid) AND NOT marked AND started_at IS NOT NULL
"""
# KEY SHARE: no other transaction deletes a job or a file between this look at it and the note of it.
NOTE = """
INSERT INTO esteira_filenote (job_id, file_id)
SELECT j.id, f.id FROM esteira_job j JOIN esteira_file f ON f.id = (j.params->>'file')::uuid
WHERE j.id >= %(start)s AND (%(end)s::uuid IS NULL OR j.id < %(end)s::uuid)
FOR KEY SHARE OF j, f
ON CONFLICT DO NOTHING
"""
DROP_LOGS = (
    "DELETE FROM esteira_joblog l WHERE NOT EXISTS (SELECT 1 FROM esteira_job j WHERE j.id = l.job_id)"
)


def mark(apps: Any, schema_editor: Any) -> None:
    in_batches(schema_editor.connection, "esteira_job", MARK)


def relate(apps: Any, schema_editor: Any) -> None:
    add_foreign_key(schema_editor, "esteira_filenote", "file_note_job", "job_id", references="esteira_job")
    add_foreign_key(schema_editor, "esteira_filenote", "file_note_file", "file_id", references="esteira_file")


def note(apps: Any, schema_editor: Any) -> None:
    in_batches(schema_editor.connection, "esteira_job", NOTE)


def drop_logs(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(DROP_LOGS)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0002_sql")]
    operations = [
        AddColumn(model_name="job", name="marked", field=BooleanField(db_default=False)),
        migrations.RunPython(mark, migrations.RunPython.noop),
        PutIndex(
            model_name="job",
            index=Index(
                fields=["queue", "type"],
                condition=Q(state="queued", published_at__isnull=True, marked=True),
                name="job_front",
            ),
        ),
        PutIndex(
            model_name="job",
            index=Index(fields=["id"], condition=Q(marked=True), name="job_marked"),
        ),
        CreateTable(
            name="FileNote",
            fields=[
                ("id", BigAutoField(primary_key=True, serialize=False)),
                (
                    "job",
                    ForeignKey(db_constraint=False, db_index=False, on_delete=CASCADE, to="esteira.job"),
                ),
                ("file", ForeignKey(db_constraint=False, on_delete=CASCADE, to="esteira.file")),
            ],
            options={"constraints": [UniqueConstraint(fields=("job", "file"), name="file_note_once")]},
        ),
        migrations.RunPython(relate, migrations.RunPython.noop),
        migrations.RunPython(note, migrations.RunPython.noop),
        AddColumn(model_name="file", name="origin", field=TextField(db_default="")),
        PutIndex(
            model_name="file",
            index=Index(fields=["origin", "created_at"], condition=Q(job__isnull=True), name="file_upload"),
        ),
        DropIndex(model_name="file", name="file_loose"),
        LooseForeignKey(
            model_name="joblog",
            name="job",
            field=ForeignKey(db_constraint=False, on_delete=CASCADE, related_name="logs", to="esteira.job"),
            mend=drop_logs,
        ),
    ]
