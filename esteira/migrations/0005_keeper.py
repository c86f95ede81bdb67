"""What the keeper tells of its turns and of each schedule, and the order of releases that declare schedules."""

from django.db import migrations, models

import esteira.models.clock
from esteira.online_migrations import AddColumn, CreateTable


class Migration(migrations.Migration):
    # Each step by itself: one that holds the keeper's row and waits for schedules could meet a keeper that does both.
    atomic = False
    dependencies = [("esteira", "0004_bounds")]
    operations = [
        CreateTable(
            name="Release",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("fingerprint", models.TextField(unique=True)),
                ("first_seen", models.DateTimeField(db_default=esteira.models.clock.ClockTimestamp())),
                ("last_seen", models.DateTimeField(db_default=esteira.models.clock.ClockTimestamp())),
            ],
        ),
        AddColumn(
            "keeper",
            "failing",
            models.JSONField(db_default=models.Value({}, models.JSONField()), default=dict),
        ),
        AddColumn("keeper", "last_turn", models.DateTimeField(null=True)),
        AddColumn("schedule", "error", models.TextField(db_default="", default="", editable=False)),
        AddColumn("schedule", "error_at", models.DateTimeField(editable=False, null=True)),
        AddColumn("schedule", "failures", models.IntegerField(db_default=0, default=0, editable=False)),
        AddColumn("schedule", "retry_at", models.DateTimeField(editable=False, null=True)),
        AddColumn("schedule", "gone_at", models.DateTimeField(editable=False, null=True)),
    ]
