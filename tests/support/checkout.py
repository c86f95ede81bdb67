"""Copies and clones of this checkout, with what is not committed yet: the code under test, in folders of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.forks import ROOT

NOT_COPIED = (
    ".git",
    ".venv",
    ".env",
    "jobs.env",
    ".esteira",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "node_modules",
)
#: Nothing of whoever runs the tests decides what git writes.
ALONE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")


def copy_of_the_checkout(place: Path, **secrets: str) -> Path:
    """Copy what a clone would have, and give some secrets by files."""
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
    for left in (place / "secrets").iterdir():
        if left.name != "README.md":
            left.unlink()
    for name, value in secrets.items():
        (place / "secrets" / name).write_text(f"{value}\n")
    return place


def committed(place: Path) -> Path:
    """Make a repository that has this checkout's files in one commit."""
    copy_of_the_checkout(place)
    _git(place, "init", "-q")
    commit(place)
    return place


def commit(place: Path) -> None:
    """Commit whatever has changed in a repository."""
    _git(place, "add", "--all")
    _git(place, *NOBODY, "commit", "-q", "-m", "All of it")


def cloned(repository: Path, place: Path, *settings: str, umask: int = 0o022) -> Path:
    """`git clone`, as somebody does it who has these settings of git and this umask."""
    chosen = [word for setting in settings for word in ("-c", setting)]
    _git(repository, "clone", "-q", "--no-hardlinks", *chosen, str(repository), str(place), umask=umask)
    return place


def _git(folder: Path, *words: str, umask: int = 0o022) -> None:
    subprocess.run(["git", *words], cwd=folder, env={**os.environ, **ALONE}, umask=umask, check=True)
