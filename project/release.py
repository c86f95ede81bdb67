"""What a release does once, before its processes start: migrate, and make the first account on a new installation.

The account `admin` is made only while there is no superuser at all, with the password that the installation made or
was given; whoever changes or removes it later is not overruled.
"""

from __future__ import annotations

from pathlib import Path

import django
from django.contrib.auth import get_user_model
from django.core.management import call_command

PASSWORD = Path("/keys/django/admin_password")
FIRST = "admin"


def main() -> None:
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    make_first_account(PASSWORD.read_text())


def make_first_account(password: str) -> None:
    """Make the first superuser, if there is none."""
    users = get_user_model()
    if not users.objects.filter(is_superuser=True).exists():
        users.objects.create_superuser(FIRST, f"{FIRST}@localhost", password)
        print(f"made the account {FIRST}; `make password` shows its password", flush=True)


if __name__ == "__main__":
    main()
