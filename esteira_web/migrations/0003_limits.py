"""Tokens that may submit some job types only, and tokens of submitters that see all jobs."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("esteira_web", "0002_bounds")]
    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="sees_all",
            field=models.BooleanField(default=False, db_default=False),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="types",
            field=models.JSONField(
                blank=True, default=list, db_default=models.Value([], models.JSONField())
            ),
        ),
    ]
