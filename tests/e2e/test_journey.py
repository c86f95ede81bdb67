"""The journey through containers."""

from __future__ import annotations

from pathlib import Path

from tests.support.compose_stack import ComposeStack
from tests.support.documents import printed
from tests.support.forks import ROOT
from tests.support.journey import Journey, job_in, thumbnails_in

#: How many thumbnails are made of a picture if nobody says otherwise.
SIZES = 3


class TestContainers(Journey):
    """What compose started."""

    def test_files_go_in_and_come_out_by_the_documented_lines(
        self, stack: ComposeStack, tmp_path: Path
    ) -> None:
        fetch, *upload = printed("docs/operations.md", "docker compose cp web:/data/demo").splitlines()
        stack.execute("web", "rm", "-rf", "/data/demo")

        one = job_in(stack.type("\n".join(upload), ROOT, COMPOSE_FILE=str(stack.file)))
        stack.manage("jobs", "show", one, "--save", "/data/demo")
        stack.type(fetch, tmp_path, COMPOSE_FILE=str(stack.file))

        assert thumbnails_in(tmp_path / "demo") == SIZES
