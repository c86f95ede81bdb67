"""Tokens, failed sign-ins, and the groups that give an account its role."""

from datetime import UTC, datetime

from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

from esteira.models.clock import ClockTimestamp

GROUPS = ["esteira-viewer", "esteira-submitter", "esteira-operator", "esteira-payloads"]
ROLES = ["viewer", "submitter", "operator"]
FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def make_groups(apps, schema_editor):
    for name in GROUPS:
        apps.get_model("auth", "Group").objects.using(schema_editor.connection.alias).get_or_create(name=name)


def serial():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]
    operations = [
        migrations.CreateModel(
            name="LoginFailure",
            fields=[
                ("id", serial()),
                ("at", models.DateTimeField(db_default=ClockTimestamp(), db_index=True)),
                ("username", models.CharField(max_length=150)),
                ("address", models.CharField(max_length=64)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["username", "at"], name="login_of_name"),
                    models.Index(fields=["address", "at"], name="login_of_address"),
                ],
            },
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("id", serial()),
                ("name", models.CharField(max_length=80)),
                ("prefix", models.CharField(max_length=16)),
                ("sha256", models.CharField(max_length=64, unique=True)),
                ("role", models.CharField(choices=[(role, role) for role in ROLES], max_length=16)),
                ("sees_payloads", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(db_default=ClockTimestamp())),
                ("expires_at", models.DateTimeField(null=True)),
                ("last_used_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=models.CASCADE, related_name="esteira_tokens", to=settings.AUTH_USER_MODEL
                    ),
                ),
                ("sees_all", models.BooleanField(db_default=False, default=False)),
                (
                    "types",
                    models.JSONField(
                        blank=True, db_default=models.Value([], models.JSONField()), default=list
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=Q(expires_at__gte=FIRST) & Q(expires_at__lt=END), name="token_moments"
                    )
                ],
            },
        ),
        migrations.RunPython(make_groups, migrations.RunPython.noop),
    ]
