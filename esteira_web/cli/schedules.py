"""`jobs schedules`: the schedules, the times at which they submit jobs, and the errors of those that fail."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from rich.text import Text

from esteira.job_types.registry import registry
from esteira.models import Schedule
from esteira_web.cli import display
from esteira_web.cli.caller import access
from esteira_web.cli.errors import OK
from esteira_web.cli.out import Out
from esteira_web.read.as_json import schedule_body, schedules
from esteira_web.read.durations import ago

HELP = "list the schedules, with the errors of those that fail"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--failing", action="store_true", help="only schedules that make no jobs although they are on"
    )


def run(out: Out, options: dict[str, Any]) -> int:
    known = registry.names()
    found = [one for one in schedules() if not options["failing"] or one.trouble(known)]
    if out.as_json:
        for one in found:
            out.data(schedule_body(one, access()))
    elif found:
        _table(out, found)
    else:
        out.say("No schedule fails." if options["failing"] else "There are no schedules.")
    return OK


def _table(out: Out, found: list[Schedule]) -> None:
    known = registry.names()
    table = display.grid("name", "submits", "when", "", "last tick", "trouble")
    for one in found:
        now: datetime = one.db_now  # type: ignore[attr-defined]
        table.add_row(
            Text(one.name, style="bold"),
            one.type,
            schedule_body(one, access())["when"],
            _switch(one),
            ago(one.last_tick_at, now),
            Text(one.trouble(known), style="red"),
        )
    out.show(table)


def _switch(one: Schedule) -> Text:
    if not one.enabled:
        return Text("off", style="yellow")
    return Text("gone", style="magenta") if one.origin == "gone" else Text("on", style="green")
