"""`jobs.env`: variables and secrets for a project's own jobs, read by `make run` and manage.py.

Containers get these variables from their runtime. The environment has precedence over the file, and the file cannot
change a setting of Esteira, as in containers.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import environ


class _Read(environ.Env):
    """Parses a file in the format of `.env`, without changing the environment."""

    ENVIRON: ClassVar[Any] = {}


def load_jobs_env(file: Path, ours: Collection[str]) -> list[str]:
    """Load the variables of a file into the environment for jobs; return the ignored names, which are settings."""
    if not os.access(file, os.R_OK):
        return []
    _Read.ENVIRON = {}
    _Read.read_env(str(file))
    for name, value in _Read.ENVIRON.items():
        if name not in ours:
            os.environ.setdefault(name, value)
    return sorted(set(_Read.ENVIRON) & set(ours))
