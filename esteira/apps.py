"""The Django app: it loads the job packages, installs the submitter, and writes declared schedules after `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class EsteiraConfig(AppConfig):
    name = "esteira"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from esteira.db.orm import settle_orm_connections
        from esteira.job_types import discover
        from esteira.job_types.registry import registry
        from esteira.submit import submit

        settle_orm_connections()
        discover.load(settings.JOB_PACKAGES)
        registry.install(submit)
        post_migrate.connect(_write_schedules, sender=self, dispatch_uid="esteira.keeper")


def _write_schedules(**_: Any) -> None:
    from esteira.db import DjangoConnection
    from esteira.keeper import declared

    db = DjangoConnection()
    if db.fetch("SELECT to_regclass('esteira_release') IS NOT NULL")[0][
        0
    ]:  # the table is missing after a migration backwards
        declared.write_declared(db)
