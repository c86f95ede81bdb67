"""`jobs list`: the newest jobs first, as the API and the pages list them."""

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
from esteira_web.read.durations import ago, moment, span
from esteira_web.read.listing import Filters, Page, page
from esteira_web.read.words import first_line

HELP = "list jobs, the newest first"
#: So many are read at a time.
SLICE = 1000
#: The name of an account, where one has to be named.
ACCOUNT = bounds.Text(least=1, most=bounds.BY.most)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", choices=SHOWN_STATES, action="append", default=[], help="again for several"
    )
    parser.add_argument("--type", metavar="TYPE", help="of this job type")
    parser.add_argument("--queue", metavar="QUEUE", help="in this queue")
    parser.add_argument("--after", type=moment, metavar="WHEN", help="submitted after this date and time")
    parser.add_argument("--before", type=moment, metavar="WHEN", help="submitted before this date and time")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many (20)")


def count(text: str) -> int:
    try:
        return TERMINAL_PAGE.typed("limit", text)
    except InvalidOption:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} must be a whole number {TERMINAL_PAGE.words()}."
        ) from None


def given(name: str, allowed: bounds.Text, options: dict[str, Any]) -> str:
    """Return what was typed, or nothing if the option was left out; an empty word is a mistake of whoever typed."""
    if options[name] is None:
        return ""
    try:
        return allowed.check(name, options[name])
    except InvalidOption as error:
        raise Usage(f"--{name}: {error.errors[0]['detail']}") from None


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
        # A search that came to its bounds goes on as long as it finds something.
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
    """Say the one thing about a job that somebody wants to know next."""
    if job.broken:
        return f"broken: {', '.join(job.broken)} cannot be read"
    if job.state == "queued" and job.run_at > now:
        return ago(job.run_at, now)
    if job.state == "running" and job.progress_total:
        return f"{job.progress_done or 0:g} of {job.progress_total:g} {job.progress_text}"
    return first_line(job.error)


def _say_what_is_left(out: Out, options: dict[str, Any], found: Page[Job], *, any_found: bool) -> None:
    """Say whether there may be more, and what shows it; in JSON only that the search was not through."""
    if found.searched_to:
        out.say(f"{found.told} To search older ones: {typed(_further(options, found.searched_to))}", "dim")
    elif out.as_json:
        return
    elif found.next:
        out.say(
            f"There are more; --limit {min(options['limit'] * 10, TERMINAL_PAGE.most)} shows them.", "dim"
        )
    elif not any_found:
        asked = any(options[name] for name in ("state", "type", "queue", "after", "before"))
        out.say("No job matches these filters." if asked else f"No jobs yet. To see some: {typed('demo')}")


def _further(options: dict[str, Any], searched_to: datetime) -> str:
    """Return the words that search on from a moment, those included that were submitted in the same one."""
    words = ["list", "--before", (searched_to + timedelta(microseconds=1)).isoformat()]
    given = [("state", state) for state in options["state"]]
    given += [(name, options[name]) for name in ("type", "queue") if options[name]]
    given += [("after", options["after"].isoformat())] if options["after"] else []
    return shlex.join([*words, *(word for name, value in given for word in (f"--{name}", value))])
