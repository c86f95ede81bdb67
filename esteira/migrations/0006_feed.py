"""What was interrupted says so itself, and ticks that wait for their turn leave the feed's ranges.

Jobs of the release before that wait after an interrupted attempt are marked once, before the index that lists them is
built. Its keepers go on beside ours: their statements find the same rows, by ranges that are a little longer.
"""

from typing import Any

from django.db import migrations, models
from django.db.models import Q

from esteira.online_migrations import AddColumn, PutIndex, in_batches

MARK = """
UPDATE esteira_job SET interrupted = true
WHERE id >= %(start)s AND (%(end)s::uuid IS NULL OR id < %(end)s::uuid) AND NOT interrupted
  AND state = 'queued' AND attempt > failures AND refused_since IS NULL AND started_at IS NOT NULL
"""


def mark(apps: Any, schema_editor: Any) -> None:
    in_batches(schema_editor.connection, "esteira_job", MARK)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0005_keeper")]
    operations = [
        AddColumn(model_name="job", name="interrupted", field=models.BooleanField(db_default=False)),
        migrations.RunPython(mark, migrations.RunPython.noop),
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["queue", "type"],
                condition=Q(state="queued", published_at__isnull=True, interrupted=True),
                name="job_front",
            ),
        ),
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["queue", "priority", "type", "in_turn", "run_at", "id"],
                condition=Q(state="queued", published_at__isnull=True),
                name="job_feed",
            ),
        ),
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["schedule", "tick_at", "id"],
                condition=Q(state="queued", published_at__isnull=True, in_turn=True),
                name="job_turns",
            ),
        ),
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["schedule"],
                condition=Q(state="queued", published_at__isnull=False, in_turn=True),
                name="job_turn_offered",
            ),
        ),
    ]
