"""`manage jobs …` in this process, and what it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import StringIO
from typing import Any

from django.core.management import call_command


@dataclass
class Said:
    """What a command wrote, and its exit code."""

    out: str
    err: str
    code: int

    @property
    def data(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def jobs(*words: str) -> Said:
    out, err, code = StringIO(), StringIO(), 0
    try:
        call_command("jobs", *words, stdout=out, stderr=err)
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    return Said(out.getvalue(), err.getvalue(), code)
