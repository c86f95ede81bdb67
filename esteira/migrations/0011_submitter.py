"""Whose a job is: the account that submitted it, by its id. Jobs of the release before are nobody's."""

from django.db import migrations, models
from django.db.models import Q

from esteira.online_migrations import AddColumn, PutIndex


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0010_uploads")]
    operations = [
        AddColumn(model_name="job", name="account", field=models.TextField(null=True)),
        PutIndex(
            model_name="job",
            index=models.Index(
                fields=["account", "created_at", "id"],
                condition=Q(account__isnull=False),
                name="job_account",
            ),
        ),
    ]
