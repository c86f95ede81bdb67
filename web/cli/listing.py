"""`jobs list`: the newest jobs first, as the API and the pages list them."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from rich.text import Text

from esteira.bounds import TERMINAL_PAGE, shown
from esteira.errors import InvalidOption
from esteira.models import Job
from esteira.states import SHOWN_STATES
from web.cli import looks
from web.cli.errors import OK
from web.cli.hints import typed
from web.cli.moments import ago, span
from web.cli.operator import access
from web.cli.out import Out
from web.listing import Filters, page
from web.shapes import job_line

HELP = "list jobs, the newest first"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", choices=SHOWN_STATES, action="append", default=[], help="again for several"
    )
    parser.add_argument("--type", default="", metavar="TYPE", help="of this job type")
    parser.add_argument("--queue", default="", metavar="QUEUE", help="in this queue")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many (20)")


def count(text: str) -> int:
    try:
        return TERMINAL_PAGE.check("limit", int(text))
    except (ValueError, InvalidOption):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} must be a whole number {TERMINAL_PAGE.words()}."
        ) from None


def run(out: Out, options: dict[str, Any]) -> int:
    filters = Filters(states=options["state"], type=options["type"], queue=options["queue"])
    found = page(filters, limit=options["limit"])
    if out.as_json:
        for job in found.items:
            out.data(job_line(job, access()))
    elif found.items:
        _table(out, found.items)
        if found.next:
            out.say(f"There are more; --limit {options['limit'] * 10} shows them.", "dim")
    else:
        _nothing(out, filters)
    return OK


def _table(out: Out, jobs: list[Job]) -> None:
    table = looks.grid("id", "type", "state", "queue", "submitted", "ran for", "")
    for job in jobs:
        now: datetime = job.db_now  # type: ignore[attr-defined]
        ran = span(job.started_at, job.finished_at or (now if job.state == "running" else None))
        table.add_row(
            looks.short_id(job.pk),
            Text(job.type, style="bold"),
            looks.state(job.shown_state),
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
        again = f"after {job.failures} failures, " if job.failures else ""
        return f"{again}{ago(job.run_at, now)}"
    if job.state == "running" and job.progress_total:
        return f"{job.progress_done or 0:g} of {job.progress_total:g} {job.progress_text}"
    if isinstance(job.error, dict):
        return str(job.error.get("message", "")).partition("\n")[0]
    return f"{job.failures + 1} tries" if job.failures and job.state == "succeeded" else ""


def _nothing(out: Out, filters: Filters) -> None:
    if filters == Filters(states=[]):
        out.say(f"No jobs yet. To see some: {typed('demo')}")
    else:
        out.say("No job matches these filters.")
