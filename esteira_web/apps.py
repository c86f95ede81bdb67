"""The Django app of pages, API, command line and admin."""

from __future__ import annotations

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "esteira_web"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from esteira_web import checks  # noqa: F401  (registers them)
        from esteira_web.accounts.accepted import watch_changes  # it needs the models

        watch_changes()
