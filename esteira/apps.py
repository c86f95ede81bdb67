"""The Django app: loads the job packages, lets job types submit, writes the schedules declared in code on migrate."""

from __future__ import annotations

from django.apps import AppConfig


class EsteiraConfig(AppConfig):
    name = "esteira"
    default_auto_field = "django.db.models.BigAutoField"
