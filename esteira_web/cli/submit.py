"""`jobs submit TYPE name=value…`: submit one job from typed values; `--wait` waits until it has ended."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from esteira.errors import EsteiraError, TooLarge
from esteira.files import MAX_BYTES, save_upload
from esteira.job_types.request import OPTIONS, Allowed, SubmitRequest, Submitted
from esteira.submit import refusals, submit
from esteira.values.bounds import Moment, OneOf, Span
from esteira_web.cli import show, typed_values
from esteira_web.cli.caller import who
from esteira_web.cli.display import short_id
from esteira_web.cli.errors import OK, REFUSED, Unreadable, noting, told_at_once
from esteira_web.cli.hints import typed
from esteira_web.cli.job_types import named
from esteira_web.cli.out import TYPED, Out
from esteira_web.cli.wait import until_ended
from esteira_web.read import find
from esteira_web.read.durations import Untypable, duration, moment

HELP = "submit a job"
READ_BYTES = 256 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("type", metavar="TYPE", help="a job type, see `jobs types`")
    add(
        "params",
        nargs="*",
        metavar="NAME=VALUE",
        help="text; NAME:=JSON for a JSON value; repeat it for a list",
    )
    add("--file", action="append", default=[], metavar="NAME=PATH", help="upload a file as this parameter")
    add("--wait", action="store_true", help="wait until the job has ended; exit 1 unless it succeeded")
    for option in OPTIONS:
        form = _form(option.allowed)
        add(TYPED[option.name], metavar=form.metavar, help=option.meaning + form.example)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The form in which an option is typed; without a metavar, argparse shows the option's own name."""

    read: Callable[[str], Any] = str
    metavar: str | None = None
    example: str = ""


def _form(allowed: Allowed) -> _Form:
    match allowed:
        case Span():
            return _Form(read=duration, metavar="TIME", example=" (90, 5m, 2h, 1d)")
        case Moment():
            return _Form(read=moment, metavar="MOMENT", example=" (2026-01-31T09:00-03:00)")
        case OneOf(names=names):
            return _Form(metavar="|".join(names))
    return _Form()


def run(out: Out, options: dict[str, Any]) -> int:
    given = typed_values.words(options["params"], options["file"])
    wrong: list[EsteiraError] = []
    request = _request(options, wrong)
    job_type = noting(lambda: named(options["type"]), wrong)
    if job_type is not None:
        noting(lambda: typed_values.refuse(job_type, given), wrong)
    wrong += [one for one in refusals(request) if not _is_of(one, "type", "params")]
    if wrong or job_type is None:
        raise told_at_once(wrong)
    params = typed_values.read(job_type, given, _upload)
    [answer] = submit([replace(request, params=params)], by=who())
    return wait_and_show(out, answer) if options["wait"] else _tell(out, answer)


def _request(typed: dict[str, Any], wrong: list[EsteiraError]) -> SubmitRequest:
    """Read the typed options, and add those that cannot be read to `wrong`."""
    chosen = {}
    for option in OPTIONS:
        if typed[option.name] is None:
            continue
        try:
            chosen[option.name] = _form(option.allowed).read(typed[option.name])
        except Untypable as error:
            wrong.append(Unreadable(option.name, error.mistake.code, **error.mistake.values))
    return SubmitRequest(type=typed["type"], params={}, **chosen)


def _is_of(error: EsteiraError, *fields: str) -> bool:
    """Return whether an error is only about these fields, for which the command line has its own checks."""
    return all(one.at[0] in fields for one in error.mistakes)


def _upload(path: Path, content_type: str) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise TooLarge(f"file {path}", MAX_BYTES)
    with path.open("rb") as stream:
        stored = save_upload(path.name, content_type, iter(lambda: stream.read(READ_BYTES), b""))
    return str(stored.pk)


def _tell(out: Out, answer: Submitted) -> int:
    if out.as_json:
        out.data({"id": str(answer.id), "deduplicated": answer.deduplicated})
        return OK
    if answer.deduplicated:
        out.say("A job with this key already waits or runs:", "yellow")
    out.page.print(str(answer.id), soft_wrap=True)
    out.say(f"Accepted. To see it: {typed(f'show {short_id(answer.id)}')}", "dim")
    return OK


def wait_and_show(out: Out, answer: Submitted) -> int:
    """Wait until a job has ended, print it, and return 0 if it succeeded."""
    try:
        until_ended([answer.id], console=out.aside)
    except KeyboardInterrupt:
        out.say(f"The job continues. To see it: {typed(f'show {short_id(answer.id)}')}", "yellow")
        raise
    return end_of(out, answer.id)


def end_of(out: Out, job_id: UUID) -> int:
    job = find.job(job_id)
    show.show(out, job)
    return OK if job.state == "succeeded" else REFUSED
