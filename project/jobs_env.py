"""`jobs.env`: variables and secrets of own jobs, for `make run` and manage.py; containers get them from their runtime.

The environment wins over the file, and a setting of Esteira is never taken from it: in containers ours win as well.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import environ


class _Read(environ.Env):
    """Reads a file as `.env` is read, but not into the environment."""

    ENVIRON: ClassVar[Any] = {}


def load_jobs_env(file: Path, ours: Collection[str]) -> list[str]:
    """Put what a file sets into the environment, where jobs find it; return the names that are ours, and not taken."""
    if not os.access(file, os.R_OK):
        return []
    _Read.ENVIRON = {}
    _Read.read_env(str(file))
    for name, value in _Read.ENVIRON.items():
        if name not in ours:
            os.environ.setdefault(name, value)
    return sorted(set(_Read.ENVIRON) & set(ours))
