"""The compose files as they are written, and as compose reads them, away from this checkout's own `.env`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.repo.tree import ROOT, files, text

FILES = [path for path in files() if path == Path("compose.yaml") or path.match("compose/*.yaml")]
BEGIN = re.compile(r"\$\{([A-Z][A-Z0-9_]*)")
INNERMOST = re.compile(r"\$\{[A-Z][A-Z0-9_]*:-([^{}]*)\}")
IF_GIVEN = re.compile(r"\$\{[A-Z][A-Z0-9_]*:\+[^{}]*\}")


def variables(source: str) -> list[tuple[str, str]]:
    """Return name and default of each `${NAME:-default}`, those inside defaults included."""
    found = []
    for match in BEGIN.finditer(IF_GIVEN.sub("", source)):
        rest = _until_its_brace(match.string[match.end() :])
        assert rest.startswith(":-"), f"{match[0]}…}} has no default, so compose warns: write {match[0]}:-}}"
        found.append((match[1], rest.removeprefix(":-")))
    return found


def _until_its_brace(rest: str) -> str:
    depth = 1
    for i, letter in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return rest[:i]
    raise AssertionError(f"a brace is not closed: {rest[:40]}")


def filled(source: str) -> str:
    """Return it with the default in the place of each variable."""
    source = IF_GIVEN.sub("", source)
    while (inner := INNERMOST.sub(r"\1", source)) != source:
        source = inner
    return source


def _all_variables() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in FILES:
        for name, default in variables(text(path)):
            found.setdefault(name, set()).add(default)
    return found


#: Each variable that compose fills in, with the defaults that it is given.
VARIABLES = _all_variables()


@cache
def have_compose() -> bool:
    """Whether docker's client has compose; no engine is needed to read files."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def need_compose() -> None:
    """Skip where docker's client is missing; where everything is checked that is a failure."""
    if have_compose():
        return
    missing = "docker's client with compose is not here, so the rendered stack is not checked"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@cache
def rendered(dotenv: str = "", override: str = "", jobs_env: str = "", **settings: str) -> dict[str, Any]:
    """Return the project as compose understands it in a folder `esteira`, with files and an environment of ours only."""
    need_compose()
    with tempfile.TemporaryDirectory(prefix="esteira-compose-") as place:
        here = Path(place) / "esteira"
        here.mkdir()
        for path in FILES:
            (here / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / path, here / path)
        if dotenv:
            (here / ".env").write_text(dotenv)
        if override:
            (here / "compose.override.yaml").write_text(override)
        if jobs_env:
            (here / "jobs.env").write_text(jobs_env)
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings}
        command = ["docker", "compose", "config", "--format", "json"]
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return dict(json.loads(done.stdout.replace(str(here), ".")))
