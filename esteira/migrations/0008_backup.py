"""What is told of the backups."""

from django.db import migrations, models

from esteira.online_migrations import CreateTable


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0007_cost")]
    operations = [
        CreateTable(
            name="Backup",
            fields=[
                ("step", models.TextField(primary_key=True, serialize=False)),
                ("succeeded_at", models.DateTimeField(null=True)),
                ("failed_at", models.DateTimeField(null=True)),
            ],
        ),
    ]
