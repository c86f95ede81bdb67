"""The output of a command: data to stdout, messages to stderr; with --json, JSON lines instead of tables.

All output goes through this module. It escapes control characters in stored texts (see `esteira.values.printable`), so
that a submitter cannot change colours or move the cursor of an operator's terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from django.core.serializers.json import DjangoJSONEncoder
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from esteira.errors import EsteiraError, Mistake, UnknownJobType
from esteira.job_types.request import OPTIONS
from esteira.values.bounds import LONGEST_NUMBER, clean, is_digits
from esteira.values.printable import indented, json_line, printable
from esteira.values.readable import as_json

#: A pipe has no width; tables are cut to this width unless COLUMNS is set.
PIPE_WIDTH = 160
#: The command line option of each field of a submit.
TYPED = {"type": "type", **{one.name: f"--{one.name.replace('_', '-')}" for one in OPTIONS}}


class Out:
    """The two streams of one command."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool = False, color: bool = True) -> None:
        self.as_json = as_json
        self.page = _console(stdout, color)
        self.aside = _console(stderr, color)

    def data(self, value: Mapping[str, Any]) -> None:
        """Print one JSON object on a line."""
        self.page.file.write(json_line(as_json(value, default=DjangoJSONEncoder().default)) + "\n")

    def show(self, *what: RenderableType) -> None:
        """Print renderable objects for a reader."""
        for one in what:
            self.page.print(one)

    def say(self, text: str, style: str = "") -> None:
        """Print a message to stderr, so that scripts that read stdout do not get it."""
        self.aside.print(indented(clean(text)), style=style, soft_wrap=True)

    def refuse(self, error: EsteiraError) -> None:
        """Print why a request was refused: each parameter with a mistake, on a line of its own."""
        errors = error.mistakes if error.status in (413, 422) else []
        if self.as_json:
            told = [one.as_json() for one in errors]
            problem = {"code": error.code, "detail": str(error), "errors": told}
            self.aside.file.write(json_line(as_json(problem)) + "\n")
        elif _are_of_a_submit(error, errors):
            what = "parameter" if error.code == "invalid-parameters" else "thing"
            several = f"1 {what} needs" if len(errors) == 1 else f"{len(errors)} {what}s need"
            self.say(f"{several} attention:", "red")
            names = [_name(one) for one in errors]
            width = max(len(name) for name in names)
            for name, mistake in zip(names, errors, strict=True):
                self.say(f"  {name:<{width}}  {mistake.detail}")
        else:
            self.say(str(error), "red")


class SafeConsole(Console):
    """Prints text without its control characters; rich calls `render` for everything it prints, table cells too."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, str):
            renderable = printable(renderable)
        elif isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = printable(renderable.plain)
        return super().render(renderable, options)


def _console(stream: TextIO, color: bool) -> Console:
    is_terminal = hasattr(stream, "isatty") and stream.isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    return SafeConsole(
        file=stream, width=width, no_color=not color or None, markup=False, highlight=False, emoji=False
    )


def _are_of_a_submit(error: EsteiraError, errors: Sequence[Mistake]) -> bool:
    """Return whether each mistake is in an argument of `jobs submit`; an unknown type is reported in a sentence."""
    tops = {one.at[0] if one.at else "" for one in errors}
    return bool(tops) and tops <= {*TYPED, "params"} and not isinstance(error, UnknownJobType)


def _name(mistake: Mistake) -> str:
    """Turn the place params, to, 0 into "to 1" (readers count from one), and the place delay into "--delay"."""
    top, *parts = map(str, mistake.at)
    if top in TYPED:
        return TYPED[top]
    said = [str(int(part) + 1) if is_digits(part) and len(part) <= LONGEST_NUMBER else part for part in parts]
    return " ".join(said) or "parameters"
