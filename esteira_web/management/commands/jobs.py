"""`manage.py jobs`: submit, show, retry and cancel jobs from a terminal or a script (see `esteira_web.cli`)."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import ProgrammingError

from esteira.db import ConnectionLost
from esteira.errors import EsteiraError
from esteira.migration_lock import away
from esteira_web.cli import (
    check,
    demo,
    files,
    job_types,
    list_jobs,
    make_token,
    retry_cancel,
    schedules,
    show,
    submit,
    tokens,
)
from esteira_web.cli.errors import INTERRUPTED, OK, REFUSED, UNAVAILABLE, USAGE, Usage
from esteira_web.cli.hints import typed
from esteira_web.cli.out import Out
from esteira_web.read.find import NotAnId

NOT_MIGRATED = "The database lacks tables of this release: run `{} migrate`."


@dataclass(frozen=True, kw_only=True)
class Action:
    """One subcommand of `jobs`."""

    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Out, dict[str, Any]], int]


ACTIONS = {
    "types": Action(help=job_types.HELP, arguments=job_types.arguments, run=job_types.run),
    "submit": Action(help=submit.HELP, arguments=submit.arguments, run=submit.run),
    "show": Action(help=show.HELP, arguments=show.arguments, run=show.run),
    "list": Action(help=list_jobs.HELP, arguments=list_jobs.arguments, run=list_jobs.run),
    "retry": Action(
        help=retry_cancel.RETRY_HELP, arguments=retry_cancel.retry_arguments, run=retry_cancel.run_retry
    ),
    "cancel": Action(
        help=retry_cancel.CANCEL_HELP, arguments=retry_cancel.cancel_arguments, run=retry_cancel.run_cancel
    ),
    "schedules": Action(help=schedules.HELP, arguments=schedules.arguments, run=schedules.run),
    "files": Action(help=files.HELP, arguments=files.arguments, run=files.run),
    "delete-files": Action(help=files.DELETE_HELP, arguments=files.delete_arguments, run=files.run_delete),
    "check": Action(help=check.HELP, arguments=check.arguments, run=check.run),
    "demo": Action(help=demo.HELP, arguments=demo.arguments, run=demo.run),
    "token": Action(help=make_token.HELP, arguments=make_token.arguments, run=make_token.run),
    "tokens": Action(help=tokens.HELP, arguments=tokens.arguments, run=tokens.run),
}


class WordParser(CommandParser):
    """Accepts values on both sides of an option: `submit TYPE a=1 --wait b=2`; argparse returns the later as rest."""

    def parse_known_args(  # type: ignore[override]  # argparse declares three overloads
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Namespace, list[str]]:
        known, rest = super().parse_known_args(args, namespace)
        last = [action for action in self._actions if action.nargs in ("*", "+")]
        if last and not any(word.startswith("-") for word in rest):
            getattr(known, last[-1].dest).extend(rest)
            rest = []
        return known, rest


class Command(BaseCommand):
    help = "Submit, show, retry and cancel jobs. Exit codes: 0 ok, 1 refused or failed, 2 wrong usage, 69 no database."
    requires_system_checks = []  # `manage.py check` runs them; this command must answer fast

    def add_arguments(self, parser: CommandParser) -> None:
        # The usage line shows the command as people type it, with its prefix.
        parser.prog = typed("").rstrip()
        words = parser.add_subparsers(dest="action", metavar="WORD", required=True, parser_class=WordParser)
        for name, action in ACTIONS.items():
            one = words.add_parser(name, help=action.help, description=action.help)
            one.add_argument(
                "--json", action="store_true", help="print JSON for scripts, one object per line"
            )
            action.arguments(one)

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.ending = self.stderr.ending = ""  # all texts end with a line break already
        color = not options["no_color"]
        out = Out(self.stdout, self.stderr, as_json=options["json"], color=color)  # type: ignore[arg-type]
        try:
            code = run(ACTIONS[options["action"]], out, options)
        except BrokenPipeError:  # `… | head`: the reader has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = OK
        if code:
            sys.exit(code)


def run(action: Action, out: Out, options: dict[str, Any]) -> int:
    """Run one subcommand; turn an error into a message and an exit code."""
    try:
        return action.run(out, options)
    except EsteiraError as error:
        out.refuse(error)
        return USAGE if isinstance(error, Usage | NotAnId) else REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConnectionLost as error:
        if options["traceback"]:
            raise
        out.say(away(error), "red")
    except ProgrammingError as error:
        if options["traceback"] or getattr(error.__cause__, "sqlstate", "") != "42P01":
            raise
        out.say(NOT_MIGRATED.format(settings.ESTEIRA_MANAGE_COMMAND), "red")
    return UNAVAILABLE
