"""`jobs list`: list jobs, newest first, in the same order as the API and the pages."""

from __future__ import annotations

import argparse
import shlex
from datetime import datetime, timedelta
from typing import Any

from rich.text import Text

from esteira.errors import InvalidOption
from esteira.models import Job
from esteira.states import SHOWN_STATES
from esteira.values import bounds
from esteira.values.bounds import QUEUE_NAME, TERMINAL_PAGE, TYPE_NAME, shown
from esteira_web.cli import display
from esteira_web.cli.caller import access
from esteira_web.cli.errors import OK, Usage
from esteira_web.cli.hints import typed
from esteira_web.cli.out import Out
from esteira_web.read.as_json import job_line
from esteira_web.read.durations import Untypable, ago, moment, span
from esteira_web.read.listing import Filters, Page, page
from esteira_web.read.words import first_line

HELP = "list jobs, the newest first"
#: The number of jobs that one query reads.
SLICE = 1000
#: The name of an account, where a name is required.
ACCOUNT = bounds.Text(least=1, most=bounds.BY.most)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        choices=SHOWN_STATES,
        action="append",
        default=[],
        help="only jobs in this state; repeat the option for several",
    )
    parser.add_argument("--type", metavar="TYPE", help="only jobs of this type")
    parser.add_argument("--queue", metavar="QUEUE", help="only jobs in this queue")
    parser.add_argument(
        "--after", type=moment, metavar="WHEN", help="only jobs submitted after this date and time"
    )
    parser.add_argument(
        "--before", type=moment, metavar="WHEN", help="only jobs submitted before this date and time"
    )
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="show at most N (default: 20)")


def count(text: str) -> int:
    try:
        return TERMINAL_PAGE.typed("limit", text)
    except InvalidOption:
        least, most = TERMINAL_PAGE.least, TERMINAL_PAGE.most
        raise Untypable("no-count", given=shown(text), least=least, most=most) from None


def given(name: str, allowed: bounds.Text, options: dict[str, Any]) -> str:
    """Return the value of an option, or "" if the option was left out; an empty value is a mistake and raises Usage."""
    if options[name] is None:
        return ""
    try:
        return allowed.check(name, options[name])
    except InvalidOption as error:
        raise Usage("usage.option", option=name, mistake=error.mistakes[0]) from None


def run(out: Out, options: dict[str, Any]) -> int:
    filters = Filters(
        states=options["state"],
        type=given("type", TYPE_NAME, options),
        queue=given("queue", QUEUE_NAME, options),
        created_after=options["after"],
        created_before=options["before"],
    )
    items, left, cursor, any_found = list[Job](), options["limit"], "", False
    while True:
        found = page(filters, cursor=cursor, limit=min(left, SLICE))
        if out.as_json:
            _lines(out, found.items)
        else:
            items += found.items
        left, cursor, any_found = left - len(found.items), found.next or "", any_found or bool(found.items)
        # A search that reached its limit continues as long as it finds jobs.
        if left <= 0 or not cursor or (found.told and not found.items):
            break
    if items:
        _table(out, items)
    _say_what_is_left(out, options, found, any_found=any_found)
    return OK


def _lines(out: Out, jobs: list[Job]) -> None:
    for job in jobs:
        out.data(job_line(job, access()))


def _table(out: Out, jobs: list[Job]) -> None:
    table = display.grid("id", "type", "state", "tries", "queue", "submitted", "ran for", "")
    for job in jobs:
        now = job.db_now
        ran = span(job.started_at, job.finished_at or (now if job.state == "running" else None))
        table.add_row(
            display.short_id(job.pk),
            Text(job.type, style="bold"),
            display.state(job.shown_state),
            f"{job.tries} of {job.max_tries}",
            job.queue,
            ago(job.created_at, now),
            ran,
            Text(_remark(job, now), no_wrap=True, overflow="ellipsis"),
        )
    out.show(table)


def _remark(job: Job, now: datetime) -> str:
    """Return the most useful short remark about a job: when it starts, its progress, or its error."""
    if job.broken:
        return f"broken: {', '.join(job.broken)} cannot be read"
    if job.state == "queued" and job.run_at > now:
        return ago(job.run_at, now)
    if job.state == "running" and job.progress_total:
        return f"{job.progress_done or 0:g} of {job.progress_total:g} {job.progress_text}"
    return first_line(job.error)


def _say_what_is_left(out: Out, options: dict[str, Any], found: Page[Job], *, any_found: bool) -> None:
    """Print whether there may be more jobs, and the command that shows them; for JSON only after a partial search."""
    if found.searched_to:
        out.say(f"{found.told} To search older jobs: {typed(_further(options, found.searched_to))}", "dim")
    elif out.as_json:
        return
    elif found.next:
        out.say(
            f"There are more jobs; --limit {min(options['limit'] * 10, TERMINAL_PAGE.most)} shows them.",
            "dim",
        )
    elif not any_found:
        asked = any(options[name] for name in ("state", "type", "queue", "after", "before"))
        out.say("No job matches these filters." if asked else f"No jobs yet. To see some: {typed('demo')}")


def _further(options: dict[str, Any], searched_to: datetime) -> str:
    """Return the arguments that continue the search, including jobs that were submitted at that same moment."""
    words = ["list", "--before", (searched_to + timedelta(microseconds=1)).isoformat()]
    given = [("state", state) for state in options["state"]]
    given += [(name, options[name]) for name in ("type", "queue") if options[name]]
    given += [("after", options["after"].isoformat())] if options["after"] else []
    return shlex.join([*words, *(word for name, value in given for word in (f"--{name}", value))])
