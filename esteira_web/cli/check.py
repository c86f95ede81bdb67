"""`jobs check`: check the database against the promise. It prints one line per rule, with the jobs that break it."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from rich.text import Text

from esteira import promise
from esteira.db import DjangoConnection
from esteira_web.cli import display
from esteira_web.cli.errors import OK, REFUSED
from esteira_web.cli.out import Out
from esteira_web.read.durations import duration

HELP = "check the stored jobs against the promise; the exit code is 1 if a job breaks a rule"
SINCE_S = 86400.0
SHOWN = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--since",
        type=duration,
        default=SINCE_S,
        metavar="TIME",
        help="check jobs that were accepted within this time: 90s, 5m, 2d (default: 1d)",
    )
    which.add_argument(
        "--all", action="store_true", help="check all jobs; this takes minutes for millions of jobs"
    )


def run(out: Out, options: dict[str, Any]) -> int:
    since = None if options["all"] else timedelta(seconds=options["since"])
    code, table = OK, display.grid("", "rule", "broken by")
    with DjangoConnection().transaction():
        # Each query may read many rows; the statement timeout of the session is meant for requests.
        DjangoConnection().fetch("SET LOCAL statement_timeout = 0")
        for one, rows in promise.broken(DjangoConnection(), since):
            ids = [str(row[0]) for row in rows]
            code = REFUSED if ids else code
            if out.as_json:
                out.data({"rule": one.rule, "kept": not ids, "jobs": ids})
                continue
            more = [f"and {len(ids) - SHOWN} more"] if len(ids) > SHOWN else []
            mark = Text("✗", style="red") if ids else Text("✓", style="green")
            table.add_row(mark, one.rule, display.lines(*ids[:SHOWN], *more))
    if not out.as_json:
        out.show(table)
    return code
