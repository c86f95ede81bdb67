"""`jobs demo`: submit one job of each demonstration type, wait until they end, show results and where the files are.

This module knows the job types by their names only; they are part of the package `jobs`. The reports are submitted
last, so that there are jobs to report about.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from rich.console import RenderableType
from rich.text import Text

from esteira import operate
from esteira.errors import EsteiraError
from esteira.job_types.request import SubmitRequest
from esteira.models import Job
from esteira.submit import submit
from esteira.values import readable
from esteira_web.cli import demo_parts, display
from esteira_web.cli.caller import who
from esteira_web.cli.errors import OK, REFUSED
from esteira_web.cli.hints import fetched, here, typed
from esteira_web.cli.out import Out
from esteira_web.cli.show import save_files
from esteira_web.cli.wait import Seen, until, until_ended
from esteira_web.read import find
from esteira_web.read.durations import span

HELP = "submit one job of each demonstration type, wait for all of them, and show the results"
PATIENCE_S = 120.0
NO_MAIL = "no mail server: set EMAIL_URL"


@dataclass(kw_only=True)
class Scene:
    """One job of the demonstration, and the end that is expected."""

    what: str
    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    meant: str = "succeeded"
    failures: int = 0
    files: int = 0
    mail: bool = False
    id: UUID = field(init=False)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: the demonstration has no options."""


def run(out: Out, options: dict[str, Any]) -> int:
    photo = demo_parts.photo("images.thumbnails")
    scenes, reports = _scenes(demo_parts.upload(photo)), _reports()
    demo_parts.refuse_unknown({scene.type for scene in [*scenes, *reports]})
    sends_mail = bool(
        getattr(settings, "EMAIL_URL", "")
    )  # a setting of the project that has the demonstration's jobs
    skipped = [scene for scene in scenes if scene.mail and not sends_mail]
    scenes = [scene for scene in scenes if not scene.mail or sends_mail]
    out.say(f"Submitting {len(scenes)} jobs, then reports about them when they have ended.", "dim")
    _submit(scenes)
    _cancel_when_running(out, scenes)
    until_ended([scene.id for scene in scenes], console=out.aside, within_s=PATIENCE_S)
    _submit(reports)
    until_ended([scene.id for scene in reports], console=out.aside, within_s=PATIENCE_S)
    return _tell(out, [*scenes, *reports], skipped)


def _scenes(photo_id: str) -> list[Scene]:
    letter = {
        "to": ["you@localhost"],
        "subject": "A job sent this",
        "text": "Hello,\n\na worker sent this mail and attached a photograph from the database.\n",
        "html": "<p>Hello,</p><p>a worker sent this mail and attached a photograph from the database.</p>",
        "attachments": [photo_id],
    }
    return [
        Scene(what="a mail with an attachment", type="email.send", params=letter, mail=True),
        Scene(
            what="thumbnails of a photograph", type="images.thumbnails", params={"picture": photo_id}, files=3
        ),
        Scene(what="fails twice, then succeeds", type="demo.flaky", params={"failures": 2}, failures=2),
        Scene(what="fails permanently", type="demo.failing", meant="failed"),
        Scene(
            what="takes long, and is cancelled", type="demo.slow", params={"seconds": 60}, meant="cancelled"
        ),
    ]


def _reports() -> list[Scene]:
    formats = {"formats": ["pdf", "xlsx"]}
    return [
        Scene(what="the job history as PDF and XLSX", type="reports.job_history", params=formats, files=2)
    ]


def _submit(scenes: Sequence[Scene]) -> None:
    answers = submit([SubmitRequest(type=scene.type, params=scene.params) for scene in scenes], by=who())
    for scene, answer in zip(scenes, answers, strict=True):
        scene.id = answer.id


def _cancel_when_running(out: Out, scenes: Sequence[Scene]) -> None:
    """Cancel a job in the middle of its work, not before its start."""
    for scene in scenes:
        if scene.meant == "cancelled":
            until(_has_progress(scene.id), [s.id for s in scenes], console=out.aside, within_s=PATIENCE_S)
            operate.cancel(scene.id, by=who())


def _has_progress(job_id: UUID) -> Callable[[dict[UUID, Seen]], bool]:
    return lambda seen: seen[job_id].ended or (seen[job_id].done or 0) > 0


@dataclass(kw_only=True)
class Ending:
    """The end of one scene: facts to show, differences from the expected end, and the paths of its files and mail."""

    said: list[str]
    wrong: list[str]
    files: list[Path]
    mail: str = ""


def _tell(out: Out, scenes: Sequence[Scene], skipped: Sequence[Scene]) -> int:
    jobs = [find.job(scene.id) for scene in scenes]
    endings = [_ending(scene, job) for scene, job in zip(scenes, jobs, strict=True)]
    if out.as_json:
        for scene, job, ending in zip(scenes, jobs, endings, strict=True):
            out.data(_facts(scene, job, ending))
        for scene in skipped:
            out.data({"what": scene.what, "type": scene.type, "state": "skipped", "details": [NO_MAIL]})
    else:
        table = display.grid("", "job", "ended", "result")
        for scene, job, ending in zip(scenes, jobs, endings, strict=True):
            table.add_row(*_row(scene, job, ending))
        for scene in skipped:
            name = display.lines(Text(scene.type, style="bold"), scene.what, "")
            table.add_row(Text("–", style="dim"), name, Text("skipped", style="dim"), Text(NO_MAIL))
        out.show(table)
        _say_where(out, endings)
    return REFUSED if any(ending.wrong for ending in endings) else OK


def _ending(scene: Scene, job: Job) -> Ending:
    wrong = [] if job.state == scene.meant else [f"it should have ended as {scene.meant}"]
    ending = Ending(said=_words(job), wrong=wrong, files=[])
    if scene.failures and job.failures != scene.failures:
        wrong.append(f"it should have failed {scene.failures} times first, but failed {job.failures} times")
    if job.state == "succeeded" and scene.files:
        ending.files = save_files(job, Path(settings.ESTEIRA_DATA_DIR) / "demo")
        if len(ending.files) != scene.files:
            wrong.append(f"it should have made {scene.files} files")
    if job.state == "succeeded" and scene.mail:
        try:
            ending.mail = demo_parts.where_mail_lies(str(job.pk))
        except EsteiraError as error:
            wrong.append(str(error))
    return ending


def _facts(scene: Scene, job: Job, ending: Ending) -> dict[str, Any]:
    return {
        "what": scene.what,
        "type": job.type,
        "id": str(job.pk),
        "state": job.shown_state,
        "meant": scene.meant,
        "as_meant": not ending.wrong,
        "details": [*ending.said, *ending.wrong],
        "files": [str(path) for path in ending.files],
        "mail": ending.mail,
    }


def _row(scene: Scene, job: Job, ending: Ending) -> list[RenderableType]:
    mark = Text("✗", style="red") if ending.wrong else Text("✓", style="green")
    id_ = Text(display.short_id(job.pk), style="dim")
    name = display.lines(Text(job.type, style="bold"), scene.what, id_, "")
    took = span(job.created_at, job.finished_at)
    ended = display.lines(display.state(job.shown_state), f"after {took}" if took else "")
    sent = ["the mail is in the mailbox"] if ending.mail else []
    said = [*ending.said, *sent, *(path.name for path in ending.files), *(f"But {w}." for w in ending.wrong)]
    return [mark, name, ended, display.lines(*said)]


def _say_where(out: Out, endings: Sequence[Ending]) -> None:
    """Print the paths of mails and files, each on a line of its own, so that people can copy them."""
    places = [("mail ", ending.mail) for ending in endings if ending.mail]
    folders = sorted({path.parent for ending in endings for path in ending.files})
    places += [("files", f"{demo_parts.near(folder)}/") for folder in folders]
    places += [("fetch", line) for folder in folders if (line := fetched(folder))]
    for name, place in places:
        out.page.print(f"{name}  {place}", soft_wrap=True)
    folder = "DIR" if here() else f"{settings.ESTEIRA_DATA_DIR}/DIR"
    out.say(f"more   {typed('show ID')}, with --save {folder} for its files")
    if settings.ESTEIRA_WEB_URL:
        out.say(f"pages  {settings.ESTEIRA_WEB_URL}")


def _words(job: Job) -> list[str]:
    if error := readable.error(job.error):
        return [f"{error.get('type', '')}: {error.get('message', '')}".removeprefix(": ")]
    if job.state == "cancelled":
        at = f" at {job.progress_done:g} of {job.progress_total:g}" if job.progress_total else ""
        return [f"stopped{at}, as {job.cancel_by} requested"]
    return [f"failed {job.failures} times, then succeeded"] if job.failures else []
