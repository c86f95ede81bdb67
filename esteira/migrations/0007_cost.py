"""What the keeper's cost depends on: running jobs by their claim, files by what may be deleted, and who needs them.

Of the jobs that wait already, those whose parameters name a file are noted; any file's id in their text counts.
"""

import django.db.models.deletion
from django.db import migrations, models

CASCADE = """
ALTER TABLE esteira_fileuse
  ADD CONSTRAINT file_use_job FOREIGN KEY (job_id) REFERENCES esteira_job ON DELETE CASCADE,
  ADD CONSTRAINT file_use_file FOREIGN KEY (file_id) REFERENCES esteira_file ON DELETE CASCADE
"""
# Nobody may delete one of these files before the constraint stands.
NOTE_USES = """
LOCK TABLE esteira_file IN SHARE MODE;
INSERT INTO esteira_fileuse (job_id, file_id)
SELECT DISTINCT j.id, f.id FROM esteira_job j
CROSS JOIN LATERAL regexp_matches(j.params::text,
  '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'g') AS m(found)
JOIN esteira_file f ON f.id = m.found[1]::uuid
WHERE j.finished_at IS NULL AND EXISTS (SELECT 1 FROM esteira_file)
ON CONFLICT DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [("esteira", "0006_feed")]
    operations = [
        migrations.CreateModel(
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
        # Before anything locks the jobs: this reads all that wait.
        migrations.RunSQL(NOTE_USES, migrations.RunSQL.noop),
        migrations.RunSQL(CASCADE, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("state", "running")), fields=["claimed_at"], name="job_claimed"
            ),
        ),
        migrations.RemoveIndex(model_name="job", name="job_running"),
        migrations.AddIndex(
            model_name="file",
            index=models.Index(
                condition=models.Q(("job__isnull", True)), fields=["created_at"], name="file_upload"
            ),
        ),
        migrations.AddIndex(
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
        migrations.RemoveIndex(model_name="file", name="file_created"),
    ]
