"""The journey through containers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.containers import Containers
from tests.support.documents import block
from tests.support.forks import ROOT
from tests.support.journey import Journey, job_in, thumbnails_in

#: How many thumbnails are made of a picture if nobody says otherwise.
SIZES = 3


class TestContainers(Journey):
    """What compose started."""

    def test_files_go_in_and_come_out_by_the_documented_lines(
        self, stack: Containers, tmp_path: Path
    ) -> None:
        fetch, *upload = block("docs/operations.md", "coffee.jpg").splitlines()
        stack.execute("web", "rm", "-rf", "/data/demo")

        one = job_in(typed(stack, ROOT, *upload))
        stack.manage("jobs", "show", one, "--save", "/data/demo")
        typed(stack, tmp_path, fetch)

        assert thumbnails_in(tmp_path / "demo") == SIZES


def typed(stack: Containers, folder: Path, *lines: str) -> str:
    """Run what somebody types who is in a folder; return what it printed."""
    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        cwd=folder,
        env=stack.environment(COMPOSE_FILE=str(stack.file)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
