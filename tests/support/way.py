"""The way of one job, as docs/architecture.md lists it, file by file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.forks import ROOT

PAGE = "docs/architecture.md"
STEP = re.compile(r"^(\d+)\. `([\w/]+\.py)`: `([\w.]+)` ")
#: The last word of a line that begins the steps of another process.
BEGINS = ":"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of the list: the function of a file by which a job enters it."""

    number: int
    file: str
    function: str

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")


def processes() -> list[list[Step]]:
    """Return the steps, process by process."""
    section = (ROOT / PAGE).read_text().partition("\n## The way of one job\n")[2].partition("\n## ")[0]
    found: list[list[Step]] = []
    for line in section.splitlines():
        if step := STEP.match(line):
            found[-1].append(Step(number=int(step[1]), file=step[2], function=step[3]))
        elif line.endswith(BEGINS):
            found.append([])
    return found


def steps() -> list[Step]:
    return [step for process in processes() for step in process]
