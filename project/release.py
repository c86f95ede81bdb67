"""The steps of a release before its processes start: migrate, and make the first account on a new installation.

It may run in any number of places at once (see `esteira.migration_lock`): Kubernetes runs it before the process of
every pod, and with `patiently` it waits for a database that starts at the same time.

The account `admin` is made only while there is no superuser at all, with the generated or given password of the
installation. If somebody changes or removes the account later, this does not undo it; `password` sets its password.
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
#: The time that a database on a new disk has to start; after it, the container runtime restarts this process.
PATIENCE_S = 300.0


def main(arguments: Sequence[str]) -> None:
    django.setup()
    try:
        _do(arguments)
    except (CommandError, NotMigrated) as error:
        sys.exit(str(error))  # a sentence for `docker compose logs migrate`, without a traceback


def _do(arguments: Sequence[str]) -> None:
    match arguments:
        case []:
            release()
        case ["patiently"]:
            with as_owner():  # the role of the application may not exist yet
                migration_lock.wait_for_database(PATIENCE_S)
            release()
        case ["password"]:
            change_password(
                admin_password() or sys.exit(f"No new password: set ADMIN_PASSWORD, or write {PASSWORD}.")
            )
        case _:
            sys.exit("Arguments: none, `patiently` or `password`.")


def release() -> None:
    """Migrate, and make the first account if this process has its password."""
    call_command("migrate", interactive=False, verbosity=0)
    if password := admin_password():
        make_first_account(password)


def admin_password() -> str:
    """Return the password from the environment or the installation's file; "" if this process does not get it."""
    return os.environ.get("ADMIN_PASSWORD") or (PASSWORD.read_text() if PASSWORD.exists() else "")


def make_first_account(password: str) -> None:
    """Make the first superuser, if there is none."""
    users = get_user_model()
    if users.objects.filter(is_superuser=True).exists():
        return
    with suppress(IntegrityError), transaction.atomic():  # another pod may make it at the same time
        users.objects.create_superuser(FIRST, f"{FIRST}@localhost", password)
        print(f"made the account {FIRST}, with the admin_password of this installation", flush=True)


def change_password(password: str) -> None:
    """Set the password of the first account; this ends the sessions that began with the old password."""
    user = get_user_model().objects.filter(username=FIRST).first()
    if user is None:
        sys.exit(f"The account {FIRST} does not exist any more; `manage createsuperuser` in web makes one.")
    user.set_password(password)
    user.save(update_fields=["password"])
    print(f"the account {FIRST} has its new password", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
