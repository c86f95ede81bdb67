"""`jobs types [TYPE]`: the job types, and the parameters of one."""

from __future__ import annotations

import argparse
import shlex
from difflib import get_close_matches
from typing import Any

from rich.text import Text

from esteira.errors import EsteiraError, Mistake, UnknownJobType
from esteira.job_types.registry import JobType, registry
from esteira_web.cli import display
from esteira_web.cli.errors import OK
from esteira_web.cli.hints import typed
from esteira_web.cli.out import Out
from esteira_web.read.as_json import type_body
from esteira_web.read.parameters import Parameter, parameters
from esteira_web.read.words import span

HELP = "list the job types, or show the parameters of one"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", nargs="?", metavar="TYPE", help="show all about this job type")


def run(out: Out, options: dict[str, Any]) -> int:
    chosen = registry.all() if options["type"] is None else [named(options["type"])]
    if out.as_json:
        for job_type in chosen:
            out.data(type_body(job_type))
    elif options["type"]:
        _show_one(out, chosen[0])
    else:
        _show_all(out, chosen)
    return OK


def named(name: str) -> JobType:
    """Return the job type of this name; raises UnknownJobType with similar names."""
    known = registry.names()
    if name in known:
        return registry.get(name)
    near = [n for n in known if n.rpartition(".")[2] == name] or get_close_matches(name, known, 3, cutoff=0.5)
    raise NoSuchType(name, near)


class NoSuchType(UnknownJobType):
    """The error of the core, with the names that were probably meant."""

    code = "no-such-type"

    def __init__(self, name: str, near: list[str]) -> None:
        wording = "no-such-type.near" if near else ""
        EsteiraError.__init__(self, wording, name=name, near=near, command=typed("types"))
        self.name = name
        self.mistakes = [Mistake(code=self.wording, at=("type",), values=self.values)]


def _show_all(out: Out, job_types: list[JobType]) -> None:
    table = display.grid("type", "title", "parameters", "queue")
    for job_type in job_types:
        some = " ".join(_brief(p) for p in parameters(job_type).values())
        table.add_row(Text(job_type.name, style="bold"), job_type.title, some, job_type.queue)
    out.show(table)
    out.say("")
    out.say(f"* means required. To see all about one type: {typed('types TYPE')}", "dim")


def _brief(parameter: Parameter) -> str:
    return parameter.name + ("*" if parameter.required else "")


def _show_one(out: Out, job_type: JobType) -> None:
    out.show(Text.assemble((job_type.name, "bold"), f"  {job_type.title}"))
    if job_type.help:
        out.show(Text(f"\n{job_type.help}"))
    known = parameters(job_type)
    if known:
        table = display.grid("parameter", "takes", "default", "meaning")
        for one in known.values():
            table.add_row(one.name, one.words(), _default(one), one.help)
        out.show("", table)
    out.show("", _how_it_runs(job_type))
    out.show("", Text(typed(f"submit {example(job_type)} --wait"), style="dim"))


def _default(parameter: Parameter) -> str:
    return "required" if parameter.required else display.as_json(parameter.default)


def _how_it_runs(job_type: JobType) -> Text:
    tries = f"{job_type.max_tries} tries" if job_type.max_tries != 1 else "1 try"
    said = [
        f"queue {job_type.queue}",
        f"priority {job_type.priority}",
        tries,
        f"time limit {span(job_type.timeout_s)}",
    ]
    if job_type.schedule:
        said.append(f"runs on a schedule: {job_type.schedule.words()}")
    return Text(" · ".join(said))


def example(job_type: JobType) -> str:
    """Return the arguments of a submit with the required parameters."""
    required = [one for one in parameters(job_type).values() if one.required]
    said = [f"--file {p.name}=PATH" if p.takes_file else f"{p.name}={_sample(p)}" for p in required]
    return " ".join([job_type.name, *said])


def _sample(parameter: Parameter) -> str:
    given = parameter.schema.get("examples")
    return shlex.quote(str(given[0])) if given else "…"
