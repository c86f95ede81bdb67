"""What a release does once, before its processes start: migrate, and make the first account on a new installation.

It may run in any number of places at once (see `esteira.migration_lock`): Kubernetes runs it before every pod's
process, where `patiently` waits for a database that starts at the same time.

The account `admin` is made only while there is no superuser at all, with the password that the installation made or
was given; whoever changes or removes it later is not overruled, unless they ask with `password`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import django
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from esteira import migration_lock
from esteira.migration_lock import NotMigrated
from esteira.owner import as_owner

PASSWORD = Path("/keys/release/admin_password")
FIRST = "admin"
#: A database on a new disk takes its time; after that the container runtime begins anew.
PATIENCE_S = 300.0


def main(arguments: Sequence[str]) -> None:
    django.setup()
    try:
        _do(arguments)
    except (
        CommandError,
        NotMigrated,
    ) as error:  # a sentence, for people who read `docker compose logs migrate`
        sys.exit(str(error))


def _do(arguments: Sequence[str]) -> None:
    match arguments:
        case []:
            release()
        case ["patiently"]:
            with as_owner():  # the role that works may not be there yet
                migration_lock.wait_for_database(PATIENCE_S)
            release()
        case ["password"]:
            change_password(
                admin_password() or sys.exit(f"No new password: set ADMIN_PASSWORD, or write {PASSWORD}.")
            )
        case _:
            sys.exit("Say nothing, `patiently` or `password`.")


def release() -> None:
    """Migrate, and make the first account where its password is known."""
    call_command("migrate", interactive=False, verbosity=0)
    if password := admin_password():
        make_first_account(password)


def admin_password() -> str:
    """Return what the environment or the installation's file says; empty if this process is not told."""
    return os.environ.get("ADMIN_PASSWORD") or (PASSWORD.read_text() if PASSWORD.exists() else "")


def make_first_account(password: str) -> None:
    """Make the first superuser, if there is none."""
    users = get_user_model()
    if users.objects.filter(is_superuser=True).exists():
        return
    with suppress(IntegrityError), transaction.atomic():  # another pod may be as far as this one
        users.objects.create_superuser(FIRST, f"{FIRST}@localhost", password)
        print(f"made the account {FIRST}, with the admin_password of this installation", flush=True)


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
