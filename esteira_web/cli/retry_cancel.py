"""`jobs retry ID…`, `jobs cancel ID…` and similar: each id is handled by itself, also after a refusal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from uuid import UUID

from esteira import operate
from esteira.errors import EsteiraError
from esteira_web.cli.caller import who
from esteira_web.cli.display import short_id
from esteira_web.cli.errors import OK, REFUSED
from esteira_web.cli.out import Out
from esteira_web.read import find

RETRY_HELP = "send failed, dead, cancelled or expired jobs back to their queue"
CANCEL_HELP = "cancel waiting jobs, and request that running jobs stop"


def retry_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="the whole id, or at least its last 8 digits")


def cancel_arguments(parser: argparse.ArgumentParser) -> None:
    retry_arguments(parser)
    parser.add_argument("--force", action="store_true", help="end the process of a job that does not stop")


def run_retry(out: Out, options: dict[str, Any]) -> int:
    def retry(job_id: UUID) -> str:
        operate.retry(job_id, by=who())
        return "queued"

    return each(out, options["ids"], retry, {"queued": "queued again"})


def run_cancel(out: Out, options: dict[str, Any]) -> int:
    def cancel(job_id: UUID) -> str:
        return operate.cancel(job_id, by=who(), force=options["force"])

    asked = "asked to stop; its process is ended" if options["force"] else "asked to stop at its next check"
    return each(out, options["ids"], cancel, {"cancelled": "cancelled", "running": asked})


def each(
    out: Out,
    refs: list[str],
    act: Callable[[UUID], str],
    said: dict[str, str],
    which: Callable[[str], UUID] = find.job_id,
) -> int:
    code = OK
    for ref in refs:
        try:
            job_id = which(ref)
            state = act(job_id)
        except find.NotAnId:
            raise
        except EsteiraError as error:
            out.refuse(error)
            code = REFUSED
            continue
        if out.as_json:
            out.data({"id": str(job_id), "state": state})
        else:
            out.show(f"{short_id(job_id)}  {said[state]}")
    return code
