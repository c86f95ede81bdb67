"""`migrate`, as Django has it, but safe to type in several places at once (see `esteira.gate`)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as Migrate
from django.db import connections

from esteira.db import Gone
from esteira.gate import NotMigrated, away, migrate_alone


class Command(Migrate):
    def handle(self, *args: Any, **options: Any) -> None:
        def migrate() -> None:
            super(Command, self).handle(*args, **options)

        try:
            if options["plan"] or options["check_unapplied"]:
                migrate()
            else:
                migrate_alone(migrate, alias=options["database"], say=self.stdout.write)
        except NotMigrated as error:
            raise CommandError(str(error)) from error
        except Gone as error:
            if connections[options["database"]].is_usable():
                raise
            raise CommandError(away(error, alias=options["database"])) from error
