"""An operator's terminal: no text of a submitter controls it, in any command and any field."""

from __future__ import annotations

import io
import json
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from esteira.db import PrivateConnection
from esteira.files import open_result
from esteira.models import Job, JobEvent, JobLog, Queue, Schedule, Worker
from esteira.values.printable import one_line
from esteira_web.accounts.tokens import create_token
from esteira_web.cli import wait
from esteira_web.cli.out import Out
from tests.support.jobs import running, stored

pytestmark = pytest.mark.usefixtures("database")
#: Clears the screen, writes over the line, begins a line of its own, turns text around, and steers in 8 bits.
NASTY = "\x1b[2J\rall is well\nforged line\u202e\x9b31m\x07\u2028\x7f"
MARK = "forged line"


class Terminal(io.StringIO):
    """A stream that says it is a terminal, so that colours come."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def job_id(core: PrivateConnection) -> UUID:
    """A failed job with the text in every column and row that a command shows."""
    (claimed,) = running(core)
    with open_result(claimed.id, 1, "a.txt", "text/plain", db=core) as out:
        out.write(b"x")
    core.fetch(
        """UPDATE esteira_file SET name = %(text)s, content_type = %(text)s, attached_at = clock_timestamp(),
             sha256 = %(text)s WHERE job_id = %(id)s""",
        {"text": NASTY, "id": claimed.id},
    )
    error = {"kind": NASTY, "type": NASTY, "message": NASTY, "traceback": NASTY}
    Job.objects.filter(pk=claimed.id).update(
        type=NASTY,
        queue=NASTY,
        params={NASTY: NASTY},
        error=error,
        unique_key=f"{NASTY}:{NASTY}",
        submitted_by=NASTY,
        progress_text=NASTY,
        progress_done=1,
        cancel_by=NASTY,
        worker=NASTY,
    )
    JobEvent.objects.create(
        job_id=claimed.id,
        kind="failed",
        by=NASTY,
        worker=NASTY,
        detail={"error": error, "reason": NASTY, "was": NASTY},
    )
    JobLog.objects.create(job_id=claimed.id, attempt=1, text=NASTY)
    (waits,) = stored(core)
    Job.objects.filter(pk=waits).update(type=NASTY, queue=NASTY)
    Queue.objects.create(name=NASTY, reason=NASTY, paused_by=NASTY)
    Worker.objects.create(name=NASTY, incarnation="x", host=NASTY, pid=1, queues=[NASTY], types=[NASTY])
    Schedule.objects.create(name=NASTY, type=NASTY, cron="0 3 * * *", error=NASTY, params={NASTY: NASTY})
    user = User.objects.create(username=NASTY, is_superuser=True)
    token, _ = create_token(user, "ci")
    type(token).objects.update(name=NASTY)
    return claimed.id


def typed(*words: str, stream: type[io.StringIO] = io.StringIO) -> str:
    out, err = stream(), stream()
    try:
        call_command("jobs", *words, stdout=out, stderr=err)
    except SystemExit:
        pass
    return out.getvalue() + err.getvalue()


def odd(text: str) -> set[str]:
    """Return what of a text no terminal should be sent; line breaks are ours."""
    return {c for c in text.replace("\n", "") if one_line(c) != c}


COMMANDS = [
    ["list"],
    ["list", "--queue", NASTY],
    ["show", "{id}"],
    ["show", "{id}", "--logs"],
    ["retry", "{id}"],
    ["cancel", "{id}"],
    ["schedules"],
    ["schedules", "--failing"],
    ["tokens"],
    ["tokens", "revoke", "1"],
    ["tokens", "revoke", NASTY],
    ["token", "x", "--user", NASTY],
    ["submit", NASTY],
    ["types", NASTY],
    ["show", NASTY],
]


@pytest.mark.parametrize(
    "words", COMMANDS, ids=lambda words: " ".join(words)[:20].encode("unicode_escape").decode()
)
def test_no_command_sends_what_a_submitter_wrote_to_the_terminal(job_id: UUID, words: list[str]) -> None:
    asked = [word.format(id=job_id) for word in words]

    said = typed(*asked)

    assert odd(said) == set()
    assert not [line for line in said.splitlines() if line.startswith(MARK)]


@pytest.mark.parametrize(
    "words", [["list"], ["show", "{id}"], ["tokens"], ["schedules"], ["retry", "{id}"]], ids=str
)
def test_json_says_it_in_letters(job_id: UUID, words: list[str]) -> None:
    said = typed(*(word.format(id=job_id) for word in words), "--json")

    assert odd(said) == set()
    assert all(isinstance(json.loads(line), dict) for line in said.splitlines())


@pytest.mark.parametrize("words", [["list"], ["show", "{id}"]], ids=str)
def test_a_real_terminal_gets_colours_of_ours_alone(
    job_id: UUID, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    said = typed(*(word.format(id=job_id) for word in words), stream=Terminal)

    assert "\x1b[" in said
    assert "\x1b[2J" not in said
    assert odd(said) == {"\x1b"}


def test_what_was_written_is_still_seen(job_id: UUID) -> None:
    said = typed("show", str(job_id))

    assert "␛[2J" in said
    assert "all is well" in said
    assert JobLog.objects.get().text == NASTY


def test_waiting_shows_no_such_text_either(job_id: UUID) -> None:
    stream = Terminal()
    out = Out(io.StringIO(), stream)
    with wait.Lines(out.aside) as lines:
        lines.update(list(wait.look([job_id]).values()))
        lines.stall(NASTY)

    assert odd(stream.getvalue()) <= {"\x1b", "\r"}  # the live line moves the cursor itself
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x9b" not in stream.getvalue()


def test_names_of_files_are_safe_where_they_are_saved(job_id: UUID, tmp_path: Any) -> None:
    said = typed("show", str(job_id), "--save", str(tmp_path))

    assert odd(said) == set()
