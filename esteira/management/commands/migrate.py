"""Django's `migrate`, made safe to run in several places at once (see `esteira.migration_lock`).

If the settings name an owner of the tables, it migrates as that owner, and grants the working role its rights
(`esteira.owner`).
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as Migrate
from django.db import ProgrammingError, connections
from psycopg.errors import InsufficientPrivilege

from esteira.db import ConnectionLost
from esteira.migration_lock import NotMigrated, away, migrate_alone
from esteira.owner import OwnerMayNot, as_owner, let_work


class Command(Migrate):
    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["database"]
        with as_owner(alias) as working:

            def migrate() -> None:
                if working is not None:
                    let_work(working, alias)  # before: new tables get the rights by default
                super(Command, self).handle(*args, **options)
                if working is not None:
                    let_work(working, alias)  # after: tables of a restored database get the rights

            try:
                if options["plan"] or options["check_unapplied"]:
                    super().handle(*args, **options)
                else:
                    migrate_alone(migrate, alias=alias, say=self.stdout.write)
            except (NotMigrated, OwnerMayNot) as error:
                raise CommandError(str(error)) from error
            except ProgrammingError as error:
                if not isinstance(error.__cause__, InsufficientPrivilege):
                    raise
                raise CommandError(_may_not(alias)) from error
            except ConnectionLost as error:
                if connections[alias].is_usable():
                    raise
                raise CommandError(away(error, alias=alias)) from error


def _may_not(alias: str) -> str:
    role = connections[alias].settings_dict["USER"]
    elsewhere = not settings.ESTEIRA_MIGRATE_COMMAND.startswith(settings.ESTEIRA_MANAGE_COMMAND)
    what_to_do = (
        f"run `{settings.ESTEIRA_MIGRATE_COMMAND}`" if elsewhere else "name that role in DATABASE_OWNER_URL"
    )
    return f"The role {role} may not change tables. Migrations run as the role that owns them: {what_to_do}."
