"""A peer's program made ready to run, in a folder of its own below the temporary one, by the ordinary tools.

Nothing is installed anywhere else; Go, pip and npm use their usual caches. A tool that is missing or fails is a
`CannotBuild`, and its message is one line that says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PEERS = Path(__file__).parent
PATIENCE_S = 600

#: Makes a program below a folder; returns the command that starts it.
Build = Callable[[Path], Sequence[str]]


class CannotBuild(RuntimeError):
    """The toolchain or a package of this peer cannot be had."""


def go(name: str) -> Build:
    def build(folder: Path) -> Sequence[str]:
        program = folder / name
        _run("go", "build", "-o", str(program), ".", cwd=PEERS / name)
        return [str(program)]

    return build


def python(name: str) -> Build:
    """One environment serves all peers in Python."""

    def build(folder: Path) -> Sequence[str]:
        place = folder / "python"
        interpreter = place / "bin" / "python"
        if not interpreter.exists():
            _run(sys.executable, "-m", "venv", str(place))
            words = ["pip", "install", "--quiet", "--disable-pip-version-check"]
            _run(str(interpreter), "-m", *words, "--requirement", str(PEERS / "python.txt"))
        return [str(interpreter), "-m", f"bench.peers.{name}.program"]

    return build


def node(name: str) -> Build:
    def build(folder: Path) -> Sequence[str]:
        place = folder / name
        shutil.copytree(PEERS / name, place, ignore=shutil.ignore_patterns("node_modules"))
        _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=place)
        return ["node", str(place / "program.mjs")]

    return build


def _run(*command: str, cwd: Path | None = None) -> None:
    tool = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"{tool} is not installed")
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise CannotBuild(f"{tool} {command[1]} failed: {lines[-1] if lines else done.returncode}")
