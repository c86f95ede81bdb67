"""What the keeper tells of its turns and of each schedule, and the order of releases that declare schedules."""

from django.db import migrations, models

import esteira.models.clock


class Migration(migrations.Migration):
    dependencies = [("esteira", "0004_bounds")]
    operations = [
        migrations.CreateModel(
            name="Release",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("fingerprint", models.TextField(unique=True)),
                ("first_seen", models.DateTimeField(db_default=esteira.models.clock.ClockTimestamp())),
                ("last_seen", models.DateTimeField(db_default=esteira.models.clock.ClockTimestamp())),
            ],
        ),
        migrations.AddField(
            "keeper",
            "failing",
            models.JSONField(db_default=models.Value({}, models.JSONField()), default=dict),
        ),
        migrations.AddField("keeper", "last_turn", models.DateTimeField(null=True)),
        migrations.AddField("schedule", "error", models.TextField(db_default="", default="", editable=False)),
        migrations.AddField("schedule", "error_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField(
            "schedule", "failures", models.IntegerField(db_default=0, default=0, editable=False)
        ),
        migrations.AddField("schedule", "retry_at", models.DateTimeField(editable=False, null=True)),
        migrations.AddField("schedule", "gone_at", models.DateTimeField(editable=False, null=True)),
    ]
