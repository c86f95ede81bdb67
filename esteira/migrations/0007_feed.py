"""What was interrupted says so itself, and ticks that wait for their turn leave the feed's ranges.

Jobs of the release before that wait after an interrupted attempt are marked once, before the index that lists them is
built. Its keepers go on beside ours: their statements find the same rows, by ranges that are a little longer.
"""

from django.db import migrations, models
from django.db.models import Q

MARK = """
UPDATE esteira_job SET interrupted = true
WHERE state = 'queued' AND attempt > failures AND refused_since IS NULL AND started_at IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [("esteira", "0003_totals")]
    operations = [
        migrations.AddField(
            model_name="job", name="interrupted", field=models.BooleanField(db_default=False)
        ),
        migrations.RunSQL(MARK, migrations.RunSQL.noop),
        migrations.RemoveIndex(model_name="job", name="job_front"),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                fields=["queue", "type"],
                condition=Q(state="queued", published_at__isnull=True, interrupted=True),
                name="job_front",
            ),
        ),
        migrations.RemoveIndex(model_name="job", name="job_feed"),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                fields=["queue", "priority", "type", "in_turn", "run_at", "id"],
                condition=Q(state="queued", published_at__isnull=True),
                name="job_feed",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                fields=["schedule", "tick_at", "id"],
                condition=Q(state="queued", published_at__isnull=True, in_turn=True),
                name="job_turns",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                fields=["schedule"],
                condition=Q(state="queued", published_at__isnull=False, in_turn=True),
                name="job_turn_offered",
            ),
        ),
    ]
