"""Programs that check files that are not Python. Each comes with its binary from the development dependencies."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from tests.repo.tree import ROOT


def has_wheel(tool: str) -> bool:
    """Whether a tool is there for this machine; pyproject.toml says the same to uv."""
    linux, x86 = sys.platform == "linux", platform.machine() == "x86_64"
    return {"trivy": linux and x86, "shellcheck": not linux or x86}.get(tool, True)


def path_of(tool: str) -> Path:
    program = Path(sys.executable).parent / tool
    assert program.exists(), f"{tool} is missing: make check puts it into .venv"
    return program


def run(tool: str, *arguments: str) -> None:
    """Run one over files of the repository; fail with all that it found."""
    ended, said = judge(tool, *arguments)
    assert ended == 0, said


def judge(tool: str, *arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Run one; return how it ended and what it said."""
    done = subprocess.run([path_of(tool), *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, f"{done.stdout}{done.stderr}"
