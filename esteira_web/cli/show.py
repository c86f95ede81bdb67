"""`jobs show ID`: show all about one job; `--save DIR` writes its result files into a folder."""

from __future__ import annotations

import argparse
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from rich.table import Table
from rich.text import Text

from esteira.files import chunks_of, result_files, safe_name
from esteira.models import File, Job, JobEvent
from esteira.models.history import newest_log
from esteira.redact import shown_params
from esteira.values.printable import INDENT, indented, one_line
from esteira_web.cli import display
from esteira_web.cli.caller import access
from esteira_web.cli.errors import OK, Unmet, Usage
from esteira_web.cli.hints import fetched, here, typed
from esteira_web.cli.out import Out
from esteira_web.read import find, words
from esteira_web.read.as_json import file_body, job_body
from esteira_web.read.durations import ago, span

HELP = "show a job"
LOG_LINES = 20
#: For these lines, so many characters at the end of the log are read: hundreds of attempts may have logged 1 MiB each.
LOG_READ = 64 * 1024
EVENTS_SHOWN = 200


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the whole id, or at least its last 8 digits")
    parser.add_argument("--logs", action="store_true", help="show the whole log, not only its end")
    parser.add_argument("--save", metavar="DIR", type=Path, help="write the result files into this folder")


def run(out: Out, options: dict[str, Any]) -> int:
    job = find.job(options["id"])
    show(out, job, all_logs=options["logs"])
    if options["save"]:
        saved = save_files(job, options["save"])
        for path in saved:
            out.say(f"saved {path}")
        if saved and (line := fetched(options["save"].absolute())):
            out.say(f"to copy them here: {line}")
    return OK


def save_files(job: Job, folder: Path) -> list[Path]:
    """Write a job's result files into a folder and check them; raises Usage if that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_save(one, folder) for one in result_files(job.pk)]
    except OSError as error:
        raise Usage("usage.folder", folder=folder, reason=error.strerror) from None


def _save(file: File, folder: Path) -> Path:
    path, digest = folder / safe_name(file.name), hashlib.sha256()
    with path.open("wb") as target:
        for chunk in chunks_of(file):
            target.write(chunk)
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        raise Unmet("unmet.damaged", path=path)
    return path


def show(out: Out, job: Job, *, all_logs: bool = False) -> None:
    """Print a job, for people or as JSON."""
    if out.as_json:
        out.data(facts(job))
        return
    now = job.db_now
    out.show(Text.assemble((one_line(job.type), "bold"), "  ", display.state(job.shown_state), f"  {job.pk}"))
    out.show("", _about(job, now))
    if job.broken:
        out.say(f"broken: {', '.join(job.broken)} cannot be read as stored", "red")
    if job.error:
        out.show("", *_error(job.error))
    files = result_files(job.pk)
    if files:
        out.show("", _files(files))
        out.say(_how_to_have_them(job), "dim")
    events = list(JobEvent.objects.filter(job_id=job.pk).order_by("-id")[:EVENTS_SHOWN])[::-1]
    if events:
        out.show("", _events(events))
    if log := log_text(job) if all_logs else "".join(text for _, text in newest_log(job, LOG_READ)):
        out.show("", *_log(log, all_logs))


def _how_to_have_them(job: Job) -> str:
    if here():
        return f"to save them here: {typed(f'show {display.short_id(job.pk)} --save .')}"
    return f"to download them: the page {settings.ESTEIRA_WEB_URL}/jobs/{job.pk}/"


def facts(job: Job) -> dict[str, Any]:
    """Return a job as the API shows it, with its files."""
    return {**job_body(job, access()), "files": [file_body(one) for one in result_files(job.pk)]}


def _about(job: Job, now: datetime) -> Table:
    table = display.pairs()
    for name, value in _rows(job, now):
        if value:
            table.add_row(name, value)
    return table


def _rows(job: Job, now: datetime) -> list[tuple[str, str]]:
    params = shown_params(job.type, job.params)
    return [
        ("parameters", display.as_json(params) if params else ""),
        ("result", display.as_json(job.result) if job.result is not None else ""),
        ("progress", _progress(job)),
        ("tries", f"{job.tries} of {job.max_tries}"),
        ("queue", f"{job.queue}, {job.priority_name} priority"),
        ("submitted", _when(job.created_at, now) + (f" by {job.submitted_by}" if job.submitted_by else "")),
        ("unique", (job.unique_key or "").partition(":")[2]),
        ("starts", _when(job.run_at, now) if job.shown_state in ("scheduled", "retrying") else ""),
        ("expires", _when(job.expires_at, now) if job.state == "queued" else ""),
        ("waited", span(job.run_at, job.started_at)),
        ("started", _when(job.started_at, now)),
        ("ended", _when(job.finished_at, now)),
        ("ran for", span(job.started_at, job.finished_at)),
        ("worker", job.worker or ""),
        ("cancel", _cancel(job, now)),
    ]


def _when(at: datetime | None, now: datetime) -> str:
    return f"{at.isoformat(sep=' ', timespec='seconds')} ({ago(at, now)})" if at else ""


def _progress(job: Job) -> str:
    if job.state != "running" or job.progress_done is None:
        return ""
    of = f" of {job.progress_total:g}" if job.progress_total is not None else ""
    return f"{job.progress_text} {job.progress_done:g}{of}".strip()


def _cancel(job: Job, now: datetime) -> str:
    if job.state != "running" or job.cancel_requested_at is None:
        return ""
    force = ", by force" if job.cancel_force else ""
    return f"requested {ago(job.cancel_requested_at, now)} by {job.cancel_by}{force}; the job stops at its next check"


def _error(error: Any) -> list[Text]:
    """Show an error as it is stored: type, message, and the traceback if there is one."""
    said = error if isinstance(error, dict) else {"message": str(error)}
    head = Text.assemble(
        ("error", "dim"), "  ", (indented(f"{said.get('type', '')}: {said.get('message', '')}"), "red")
    )
    trace = str(said.get("traceback") or "").rstrip()
    return [head, Text(INDENT + indented(trace), style="dim")] if trace else [head]


def _files(files: list[File]) -> Table:
    table = display.grid("file", "size", "type", "sha256")
    for one in files:
        table.add_row(one.name, words.size(one.size), one.content_type, one.sha256[:12])
    return table


def _events(events: list[JobEvent]) -> Table:
    table = display.grid("at", "event", "", "by")
    for event in events:
        at = event.at.isoformat(sep=" ", timespec="milliseconds")[:23]
        table.add_row(at, event.kind, event_words(event.detail), event.by or event.worker)
    return table


def event_words(detail: Any) -> str:
    """Return the detail of an event as one line."""
    if not isinstance(detail, dict):
        return display.as_json(detail)
    said = []
    error = detail.get("error")
    if isinstance(error, dict):
        said.append(f"{error.get('type', '')}: {error.get('message', '')}".removeprefix(": "))
    if "delay_s" in detail:
        said.append(f"next try after {words.span(float(detail['delay_s']))}")
    if "was" in detail:
        said.append(f"was {detail['was']}")
    if detail.get("force"):
        said.append("by force")
    if detail.get("reason"):
        said.append(str(detail["reason"]))
    return "; ".join(said).replace("\n", " ")


def log_text(job: Job) -> str:
    """Return the log of all attempts, in order."""
    return "".join(job.logs.order_by("attempt", "id").values_list("text", flat=True))


def _log(text: str, everything: bool) -> list[Text]:
    lines, is_whole = text.rstrip().splitlines(), everything or len(text) < LOG_READ
    cut = lines if everything else lines[-LOG_LINES:]
    left_out = ""
    if len(cut) < len(lines) or not is_whole:
        number = f"of {len(lines)} lines" if is_whole else "lines"
        left_out = f", the last {len(cut)} {number} (--logs shows all)"
    return [Text(f"log{left_out}", style="dim"), Text(INDENT + indented("\n".join(cut)))]
