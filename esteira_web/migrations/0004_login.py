"""Failed sign-ins are counted by name and by address."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("esteira_web", "0003_limits")]
    operations = [
        migrations.AddIndex(
            model_name="loginfailure",
            index=models.Index(fields=["username", "at"], name="login_of_name"),
        ),
        migrations.AddIndex(
            model_name="loginfailure",
            index=models.Index(fields=["address", "at"], name="login_of_address"),
        ),
    ]
