"""README without Docker: `make run` in a copy of this checkout, and what README has people type beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from project.local.embedded import free_port
from tests.support.checkout import copy_of_the_checkout
from tests.support.compose_stack import without_ours
from tests.support.documents import blocks, printed
from tests.support.readme import Readme, Shell
from tests.support.waiting import until

pytestmark = pytest.mark.slow

#: What `make` compares with the environment; ours has all of it, and must not change under the other tests.
OF_THE_ENVIRONMENT = ("uv.lock", "pyproject.toml", "jobs/requirements.txt")
#: One process from before the job until it runs; a command line for each look would be too slow for a short job.
RUNS = """.venv/bin/python -c "
import sys, time, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    while not connection.execute('SELECT 1 FROM esteira_job WHERE state = %s AND type = %s', sys.argv[2:]).fetchone():
        time.sleep(0.05)
" "$DATABASE_URL" running demo.slow"""


class Made:
    """The stack of a copy, in a window of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder.parent / "window.log"
        (folder / ".env").write_text(f"PORT={free_port()}\nFLOWER_PORT={free_port()}\n")
        with self.log.open("wb") as window:
            self.process = subprocess.Popen(
                ["bash", "-euc", printed("README.md", "make run")],
                cwd=folder,
                env=without_ours(),
                stdin=subprocess.DEVNULL,
                stdout=window,
                stderr=window,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text()

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "Esteira is up" in self.said()

    def type(self, lines: str) -> str:
        """Run what somebody types in a second window; return what it printed."""
        done = subprocess.run(
            ["bash", "-euc", lines],
            cwd=self.folder,
            env=without_ours(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{lines}: {done.stdout}{done.stderr}{self.said()[-3000:]}"
        assert "␊" not in done.stdout + done.stderr, (
            f"a line break of ours is shown as a picture: {done.stdout}"
        )
        return done.stdout

    def press_control_c(self) -> str:
        """Do what a terminal does: all that run in the window are told. Return what was said until the end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(120)
        return self.said()


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    home = Path(tempfile.mkdtemp(prefix="esteira-make-run-"))
    home.chmod(0o755)  # PostgreSQL refuses root and then runs as somebody who must get through
    folder = copy_of_the_checkout(home / "esteira")
    (folder / ".venv").symlink_to(sys.prefix)
    assert (folder / ".venv" / ".synced").exists(), "`make` makes the environment of the tests"
    for name in OF_THE_ENVIRONMENT:
        os.utime(folder / name, (0, 0))
    made = Made(folder)
    try:
        until(made.is_up, "it says that it is up", timeout=120, every=0.1)
        yield made
    finally:
        said = made.press_control_c()
        shutil.rmtree(home)
    assert "Stopped. The data is kept." in said, said


class TestMakeRun(Readme):
    """What README says of both."""

    @pytest.fixture
    def folder(self, made: Made) -> Path:
        return made.folder

    @pytest.fixture
    def shell(self, made: Made) -> Shell:
        return lambda lines: made.type(printed("README.md", "manage() { .venv/bin/python") + lines)

    def test_the_demo_shows_people_where_everything_lies(self, made: Made, shell: Shell) -> None:
        said = shell(printed("README.md", "manage jobs demo"))

        for word in ("coffee-256.webp", ".pdf", ".xlsx", "GiveUp: The account 4711", "stopped at", "✓"):
            assert word in said
        (mail,) = [line.split()[1] for line in said.splitlines() if line.startswith("mail ")]
        assert "Subject: A job sent this" in (made.folder / mail).read_text()
        assert "files  .esteira/demo/" in said
        assert "✗" not in said

    def test_a_mail_that_curl_submits_is_in_the_mailbox(self, made: Made) -> None:
        def arrived() -> bool:
            box = made.folder / ".esteira" / "mail" / "new"
            return any("Subject: Hello" in mail.read_text() for mail in box.iterdir())

        until(arrived, "the mail is there")

    def test_a_killed_worker_comes_back_and_so_does_its_job(self, shell: Shell) -> None:
        lines = printed(
            "README.md",
            "manage jobs submit demo.slow seconds=15 --wait &\nsleep 5\nkill",
            {"sleep 5": RUNS, "seconds=15": "seconds=6"},
        )

        said = shell(lines)

        assert "succeeded" in said and "rescued" in said, said

    def test_a_saved_module_is_a_job_type_that_runs(self, made: Made, shell: Shell) -> None:
        (greetings,) = blocks("README.md", "python")
        (made.folder / "jobs" / "greetings.py").write_text(greetings.lines)

        said = shell(printed("README.md", "manage jobs submit greetings.greet"))
        said_again = made.type(printed("docs/adding-a-job.md", ".venv/bin/python manage.py jobs submit"))

        assert "Hello Ana" in said and "hello Ana, 4" in said, said
        assert "Hello Ana" in said_again, said_again
