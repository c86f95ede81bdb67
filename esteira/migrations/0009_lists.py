"""What lists of jobs are found by: two indexes that hold rare rows only, so that most jobs pay nothing for them.

One holds what ended badly, by state. The other holds what waits and did not become due when it was submitted: scheduled
jobs, and those that wait for their next try.
"""

from datetime import timedelta

from django.db import migrations, models
from django.db.models import F, Q, Value
from django.db.models.lookups import GreaterThan, LessThan

from esteira.online_migrations import PutIndex


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0008_backup")]
    operations = [
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["state", "created_at", "id"],
                condition=Q(state__in=["cancelled", "dead", "expired", "failed"]),
                name="job_ended_badly",
            ),
        ),
        PutIndex(
            model_name="job",
            index=models.Index(
                GreaterThan(F("failures"), Value(0)),
                F("created_at"),
                F("id"),
                condition=Q(state="queued")
                & (
                    Q(GreaterThan(F("run_at") - F("created_at"), timedelta(seconds=1)))
                    | Q(LessThan(F("run_at") - F("created_at"), timedelta(seconds=-1)))
                ),
                name="job_later",
            ),
        ),
    ]
