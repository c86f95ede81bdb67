"""`jobs types [TYPE]`: the job types, and the parameters of one."""

from __future__ import annotations

import argparse
import shlex
from difflib import get_close_matches
from typing import Any

from rich.text import Text

from esteira.errors import UnknownJobType
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
        for kind in chosen:
            out.data(type_body(kind))
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

    def __init__(self, name: str, near: list[str]) -> None:
        super().__init__(name)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        self.args = (f"There is no job type {name!r}.{meant} `{typed('types')}` lists them all.",)


def _show_all(out: Out, kinds: list[JobType]) -> None:
    table = display.grid("type", "title", "parameters", "queue")
    for kind in kinds:
        some = " ".join(_brief(p) for p in parameters(kind).values())
        table.add_row(Text(kind.name, style="bold"), kind.title, some, kind.queue)
    out.show(table)
    out.say("")
    out.say(f"* means required. To see all about one type: {typed('types TYPE')}", "dim")


def _brief(parameter: Parameter) -> str:
    return parameter.name + ("*" if parameter.required else "")


def _show_one(out: Out, kind: JobType) -> None:
    out.show(Text.assemble((kind.name, "bold"), f"  {kind.title}"))
    if kind.help:
        out.show(Text(f"\n{kind.help}"))
    known = parameters(kind)
    if known:
        table = display.grid("parameter", "takes", "default", "meaning")
        for one in known.values():
            table.add_row(one.name, one.words(), _default(one), one.help)
        out.show("", table)
    out.show("", _how_it_runs(kind))
    out.show("", Text(typed(f"submit {example(kind)} --wait"), style="dim"))


def _default(parameter: Parameter) -> str:
    return "required" if parameter.required else display.as_json(parameter.default)


def _how_it_runs(kind: JobType) -> Text:
    tries = f"{kind.max_tries} tries" if kind.max_tries != 1 else "1 try"
    said = [f"queue {kind.queue}", f"priority {kind.priority}", tries, f"time limit {span(kind.timeout_s)}"]
    if kind.schedule:
        said.append(f"runs on a schedule: {kind.schedule.words()}")
    return Text(" · ".join(said))


def example(kind: JobType) -> str:
    """Return the arguments of a submit with the required parameters."""
    required = [one for one in parameters(kind).values() if one.required]
    said = [f"--file {p.name}=PATH" if p.takes_file else f"{p.name}={_sample(p)}" for p in required]
    return " ".join([kind.name, *said])


def _sample(parameter: Parameter) -> str:
    given = parameter.schema.get("examples")
    return shlex.quote(str(given[0])) if given else "…"
