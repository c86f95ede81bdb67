"""Whose upload a file is. An older release beside this one goes on without saying so: its uploads are nobody's."""

from django.db import migrations, models

from esteira.online_migrations import AddColumn, PutIndex


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0009_lists")]
    operations = [
        AddColumn(
            model_name="file",
            name="account",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        PutIndex(
            model_name="file",
            index=models.Index(
                condition=models.Q(("job__isnull", True)),
                fields=["account", "created_at"],
                name="file_account",
            ),
        ),
    ]
