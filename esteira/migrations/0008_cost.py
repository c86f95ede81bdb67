"""What keeps the keeper's cost independent of what ran: running jobs by the moment of their claim."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("esteira", "0003_totals")]
    operations = [
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("state", "running")), fields=["claimed_at"], name="job_claimed"
            ),
        ),
        migrations.RemoveIndex(model_name="job", name="job_running"),
    ]
