"""What a release does once, before its processes start: migrate, and make the first account on a new installation.

The account `admin` is made only while there is no superuser at all, with the password that the installation made or
was given; whoever changes or removes it later is not overruled, unless they ask with `password`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import django
from django.contrib.auth import get_user_model
from django.core.management import call_command

PASSWORD = Path("/keys/django/admin_password")
FIRST = "admin"


def main(arguments: Sequence[str]) -> None:
    django.setup()
    match arguments:
        case []:
            call_command("migrate", interactive=False, verbosity=0)
            make_first_account(PASSWORD.read_text())
        case ["password"]:
            change_password(PASSWORD.read_text())
        case _:
            sys.exit("Say nothing, or `password`.")


def make_first_account(password: str) -> None:
    """Make the first superuser, if there is none."""
    users = get_user_model()
    if not users.objects.filter(is_superuser=True).exists():
        users.objects.create_superuser(FIRST, f"{FIRST}@localhost", password)
        print(f"made the account {FIRST}; `make password` shows its password", flush=True)


def change_password(password: str) -> None:
    """Give the first account a password; whoever is signed in with the old one is signed out."""
    user = get_user_model().objects.filter(username=FIRST).first()
    if user is None:
        sys.exit(f"There is no account {FIRST} any more; `manage createsuperuser` in web makes one.")
    user.set_password(password)
    user.save(update_fields=["password"])
    print(f"the account {FIRST} has its new password", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
