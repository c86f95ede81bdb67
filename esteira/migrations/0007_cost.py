"""What the keeper's cost depends on: running jobs by their claim, files by what may be deleted, and who needs them.

Of the jobs that wait already, those whose parameters name a file are noted; any file's id in their text counts.
"""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

from esteira.online_migrations import CreateTable, DropIndex, PutIndex, add_foreign_key, in_batches

# Nobody deletes a job or a file between the look at it and the note; a claim does not meet this lock.
NOTE_USES = """
INSERT INTO esteira_fileuse (job_id, file_id)
SELECT j.id, f.id FROM esteira_job j
CROSS JOIN LATERAL regexp_matches(j.params::text,
  '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'g') AS m(found)
JOIN esteira_file f ON f.id = m.found[1]::uuid
WHERE j.id >= %(start)s AND (%(end)s::uuid IS NULL OR j.id < %(end)s::uuid) AND j.finished_at IS NULL
FOR KEY SHARE OF j, f
ON CONFLICT DO NOTHING
"""


def relate(apps: Any, schema_editor: Any) -> None:
    add_foreign_key(schema_editor, "esteira_fileuse", "file_use_job", "job_id", references="esteira_job")
    add_foreign_key(schema_editor, "esteira_fileuse", "file_use_file", "file_id", references="esteira_file")


def note_uses(apps: Any, schema_editor: Any) -> None:
    if apps.get_model("esteira", "File").objects.using(schema_editor.connection.alias).exists():
        in_batches(schema_editor.connection, "esteira_job", NOTE_USES)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0006_feed")]
    operations = [
        CreateTable(
            name="FileUse",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "job",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="uses",
                        to="esteira.job",
                    ),
                ),
                (
                    "file",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="uses",
                        to="esteira.file",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("job", "file"), name="file_use_once")],
            },
        ),
        migrations.RunPython(relate, migrations.RunPython.noop),
        migrations.RunPython(note_uses, migrations.RunPython.noop),
        PutIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("state", "running")), fields=["claimed_at"], name="job_claimed"
            ),
        ),
        DropIndex(model_name="job", name="job_running"),
        PutIndex(
            model_name="file",
            index=models.Index(
                condition=models.Q(("job__isnull", True)), fields=["created_at"], name="file_upload"
            ),
        ),
        PutIndex(
            model_name="file",
            index=models.Index(
                condition=models.Q(
                    ("attached_at__isnull", True),
                    models.Q(("sha256", ""), ("job__isnull", False), _connector="OR"),
                ),
                fields=["created_at"],
                name="file_loose",
            ),
        ),
        DropIndex(model_name="file", name="file_created"),
    ]
