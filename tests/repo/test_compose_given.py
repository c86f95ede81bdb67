"""`make up` and `make scale` refuse a number that is none in a sentence of ours, before Docker is asked for anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repo.tree import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scripts alone, on a machine without Docker."""
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    (tmp_path / "tools").mkdir()
    for tool in ("sh", "dirname", "sed", "tail", "grep", "cat"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def said(folder: Path, script: str, *words: str, **env: str) -> str:
    done = subprocess.run(
        [folder / "bin" / script, *words],
        cwd=folder,
        env={"PATH": str(folder / "tools"), "HOME": os.environ.get("HOME", "/"), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr


PORTS = "write a port from 1 to 65535, or a range such as 8000-8001."


@pytest.mark.parametrize("value", ["abc", "4x", "-1", "1.5", "4 5"])
def test_a_number_of_workers_that_is_none_is_refused(folder: Path, value: str) -> None:
    sentence = f"WORKERS is {value}: write a whole number, for example WORKERS=4.\n"

    assert said(folder, "scale", value) == sentence
    assert said(folder, "up", WORKERS=value) == sentence


@pytest.mark.parametrize(
    "value", ["80a", "0", "65536", "8000-", "-8000", "8000-x", "127.0.0.1:8000", "999999999999"]
)
@pytest.mark.parametrize("name", ["PORT", "FLOWER_PORT"])
def test_a_port_that_is_none_is_refused(folder: Path, name: str, value: str) -> None:
    assert said(folder, "up", **{name: value}) == f"{name} is {value}: {PORTS}\n"

    (folder / ".env").write_text(f'{name}=8000\n{name}="{value}"  # ours\n')
    assert said(folder, "up") == f"{name} is {value}: {PORTS}\n"


@pytest.mark.parametrize("env", [{}, {"PORT": "8000"}, {"PORT": "8000-8001", "WORKERS": "4"}])
def test_what_is_a_number_goes_on_to_docker(folder: Path, env: dict[str, str]) -> None:
    (folder / ".env").write_text("# PORT=x\nFLOWER_PORT='5556'\n")

    assert "docker: not found" in said(folder, "up", **env)
    assert "docker: not found" in said(folder, "scale", *([env["WORKERS"]] if "WORKERS" in env else []))
