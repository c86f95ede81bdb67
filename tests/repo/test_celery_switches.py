"""The page of Celery's switches knows each switch of the installed Celery, and says of each what it does here."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from celery.bin.celery import celery
from celery.worker.control import Panel
from click.testing import CliRunner

from tests.repo.tree import text

PAGE = Path("docs/celery-switches.md")
REFUSED = "refused: "
WORKS = ("works", "ends the ", "Celery refuses it")
GLOBAL = "celery"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: what is given, and what it does here."""

    names: list[str]
    example: str
    here: str

    @property
    def sentence(self) -> str:
        return self.here.removeprefix(REFUSED) if self.here.startswith(REFUSED) else ""


def rows(section: str) -> list[Row]:
    """Read the table of a section; a row without a name belongs to the one before it."""
    part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text(PAGE), re.MULTILINE | re.DOTALL)
    assert part, section
    found: list[Row] = []
    for line in re.findall(r"^\|(.*)\|$", part[1], re.MULTILINE)[2:]:
        names, example, here = (cell.strip() for cell in line.split("|"))
        given = re.findall(r"`([^`]+)`", names) or found[-1].names
        found.append(Row(names=given, example=example.strip("`"), here=here))
    assert found, section
    return found


def switches(command: str) -> set[str]:
    known = celery if command == GLOBAL else celery.commands[command]
    return {
        name
        for param in known.params
        if not getattr(param, "hidden", False) and param.param_type_name == "option"
        for name in (*param.opts, *param.secondary_opts)
    }


@pytest.mark.parametrize("command", ["worker", "beat", "control", "inspect", GLOBAL])
def test_the_page_knows_every_switch(command: str) -> None:
    section = command if command == GLOBAL else f"celery {command}"
    told = {name for row in rows(section) for name in row.names}
    asked = {name for name, meta in Panel.meta.items() if meta.type == command and meta.visible}

    assert told == switches(command) | asked


def test_the_page_knows_every_command() -> None:
    section = text(PAGE).split("## The other commands")[1]
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    assert told == set(celery.commands) - {"worker", "beat", "control", "inspect"}


def test_every_row_says_whether_it_works() -> None:
    for section in ("celery worker", "celery beat", "celery control", "celery inspect", "celery"):
        for row in rows(section):
            assert row.sentence or row.here.startswith(WORKS), (section, row)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The commands that went through to Celery's own start, which is left out."""
    went: list[str] = []
    monkeypatch.chdir(tmp_path)  # a log file is made where it is asked for
    with mock.patch.dict(os.environ):
        for name in ("worker", "beat"):
            command = celery.commands[name]
            monkeypatch.setattr(command, "params", list(command.params))  # Celery adds to it at each call
            monkeypatch.setattr(command, "callback", lambda name=name, **_: went.append(name))
        yield went


def examples(*commands: str) -> list[object]:
    found: list[object] = []
    for command in commands:
        for row in rows(command if command == GLOBAL else f"celery {command}"):
            if row.example:
                found.append(pytest.param(command, row, id=f"{command} {row.example}"))
    return found


@pytest.mark.parametrize(("command", "row"), examples("worker", "beat", GLOBAL))
def test_each_example_does_what_the_page_says(
    command: str, row: Row, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(row.example)
    line = [*words, "worker"] if command == GLOBAL else [command, *words]
    monkeypatch.setattr(sys, "argv", ["celery", *line])

    done = CliRunner().invoke(celery, ["-A", "project", *line])

    if row.sentence:
        switch = max(row.names, key=len)
        said = re.escape(row.sentence).replace("…", ".+")
        assert re.search(rf"Error: --?[\w-]+: {said}$", done.output.strip()), (switch, done.output)
        assert (done.exit_code, started) == (2, [])
    else:
        assert done.exit_code == 0, done.output
        assert started == [line[0] if command != GLOBAL else "worker"]


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row.names[0]} {row.example}") for row in rows("celery control")]
)
def test_workers_refuse_in_their_answers_what_the_page_says(row: Row) -> None:
    """Only what stands before Celery's own command is looked at; it is told of a worker of the queues default and mail."""
    from esteira.worker import remote_control

    if not hasattr(remote_control, row.names[0]):
        assert not row.sentence, row
        return
    given = shlex.split(row.example)
    names = {
        "rate_limit": ["task_name", "rate_limit"],
        "time_limit": ["task_name", "soft", "hard"],
        "autoscale": ["max", "min"],
    }
    arguments = dict(
        zip(names.get(row.names[0], ["n" if "pool" in row.names[0] else "queue"]), given, strict=False)
    )

    said = getattr(remote_control, row.names[0])(a_worker(), **arguments)

    assert re.fullmatch(re.escape(row.sentence).replace("…", ".+"), said), said


def a_worker() -> SimpleNamespace:
    """What a command of Celery's is told of a worker with two processes, which scale between one and six."""
    controller = SimpleNamespace(autoscaler=SimpleNamespace(max_concurrency=6, min_concurrency=1))
    queues = SimpleNamespace(consume_from={"default": None, "mail": None})
    return SimpleNamespace(
        app=SimpleNamespace(amqp=SimpleNamespace(queues=queues)),
        consumer=SimpleNamespace(pool=SimpleNamespace(num_processes=2), controller=controller),
    )
