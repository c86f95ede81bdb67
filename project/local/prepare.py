"""Migrate the database and make the development user: a short process before the parts start.

It loads the job packages too (migrations write the declared schedules), so a run after a file was saved shows whether
the files can be loaded at all. An existing user keeps the current password.
"""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

from project.local.parts import DEV_USER, OTHER_PASSWORD


def main() -> None:
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)  # as the role that owns the tables
    ensure_development_user(os.environ["DEV_PASSWORD"])
    for name in settings.NOT_FOR_JOBS:
        print(f"jobs.env: {name} is a setting of Esteira, so its line has no effect. Put settings into .env.")


def ensure_development_user(password: str) -> None:
    """Make the superuser of this installation once."""
    users = get_user_model()
    user = users.objects.filter(username=DEV_USER).first()
    if user is None:
        users.objects.create_superuser(DEV_USER, f"{DEV_USER}@localhost", password)
    elif not user.check_password(password):
        print(OTHER_PASSWORD)


if __name__ == "__main__":
    main()
