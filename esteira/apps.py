"""The Django app: it loads the job types, installs the submitter, and writes declared schedules after `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.db.models.signals import post_migrate
from django.utils.module_loading import module_has_submodule

from esteira import defaults

# Before any module of the apps reads a setting.
defaults.fill()


class EsteiraConfig(AppConfig):
    name = "esteira"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from esteira import checks  # noqa: F401  (registers them)
        from esteira.db.orm import settle_orm_connections
        from esteira.job_types import discover
        from esteira.job_types.registry import registry
        from esteira.submit import submit

        settle_orm_connections()
        discover.load(settings.ESTEIRA_JOB_PACKAGES or _job_modules())
        registry.install(submit)
        post_migrate.connect(_write_schedules, sender=self, dispatch_uid="esteira.keeper")


def _job_modules() -> list[str]:
    """Return the module `jobs` of each installed app that has one, for a project that names no packages."""
    return [
        f"{app.name}.jobs"
        for app in apps.get_app_configs()
        if app.module is not None and module_has_submodule(app.module, "jobs")
    ]


def _write_schedules(**_: Any) -> None:
    from esteira.db import DjangoConnection
    from esteira.keeper import declared

    db = DjangoConnection()
    if db.fetch("SELECT to_regclass('esteira_release') IS NOT NULL")[0][
        0
    ]:  # the table is missing after a migration backwards
        declared.write_declared(db)
