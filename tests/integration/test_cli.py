"""`manage.py jobs` as people and scripts use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from esteira import Context, FileRef, Secret, ids, job, operate
from esteira.db import DjangoConnection, PrivateConnection
from esteira.files import open_file, open_result
from esteira.models import File, Job, JobLog, Schedule, Worker
from esteira.record import claim, finish
from tests.support.forks import ROOT, environment
from tests.support.jobs_command import Said, jobs
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def _types(job_types: None) -> None:
    @job(name="cli.greet")
    def greet(ctx: Context, name: str = "ana", password: Secret = Secret("hunter2")) -> None:  # noqa: B008
        """Greet somebody."""

    @job(name="cli.open")
    def without_secrets(ctx: Context) -> None:
        """Need no secret."""

    @job(name="cli.read")
    def read(ctx: Context, text: FileRef) -> None:
        """Read a file."""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables fold at the terminal's width, and not every process has one."""
    monkeypatch.setenv("COLUMNS", "160")


def shell(*words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=60)
    return Said(out, err, process.returncode)


def submitted(*words: str) -> UUID:
    return UUID(jobs("submit", "cli.greet", *words, "--json").data[0]["id"])


def open_job() -> UUID:
    return UUID(jobs("submit", "cli.open", "--json").data[0]["id"])


def start(job_id: UUID, db: Any = None) -> None:
    db = db or DjangoConnection()
    db.fetch("UPDATE esteira_job SET published_at = clock_timestamp() WHERE id = %s", [job_id])
    assert claim.claim(db, [job_id], worker="w/1", delivery="d")


def end(job_id: UUID, kind: str = "succeeded", *, db: Any = None, **more: Any) -> None:
    db = db or DjangoConnection()
    start(job_id, db)
    finish_it(job_id, kind, db=db, **more)


def finish_it(job_id: UUID, kind: str = "succeeded", *, db: Any = None, **more: Any) -> None:
    outcome = finish.Outcome(id=job_id, attempt=1, kind=kind, started_s=0.01, ended_s=0.5, **more)
    assert finish.finish(db or DjangoConnection(), [outcome])


class Hand:
    """Ends the first job that comes, while the command under test waits for it."""

    def __init__(self, kind: str, **more: Any) -> None:
        self._thread = threading.Thread(target=self._work, args=[kind, more])

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _work(self, kind: str, more: dict[str, Any]) -> None:
        core = PrivateConnection("hand")
        try:
            [(job_id,)] = until(lambda: core.fetch("SELECT id FROM esteira_job"), "a job was submitted")
            end(job_id, kind, db=core, **more)
        finally:
            core.close()


# --- types ----------------------------------------------------------------------------------------------------------


def test_types_lists_what_can_be_submitted() -> None:
    text = jobs("types").out

    assert "cli.greet" in text
    assert "Greet somebody" in text
    assert "email.send" in text


def test_one_type_shows_its_parameters_and_an_example() -> None:
    text = jobs("types", "cli.read").out

    assert "file" in text
    assert "manage.py jobs submit cli.read --file text=PATH --wait" in text


def test_types_as_json_carries_the_schema() -> None:
    [one] = jobs("types", "cli.greet", "--json").data

    assert one["name"] == "cli.greet"
    assert set(one["schema"]["properties"]) == {"name", "password"}


def test_schedules_are_listed_with_what_is_wrong_with_them() -> None:
    assert "There are no schedules." in jobs("schedules").err
    Schedule.objects.create(
        name="bad", type="cli.greet", cron="0 6 * * *", error="KeyError: 'day'", failures=2
    )
    Schedule.objects.create(name="good", type="cli.greet", every_s=60)
    Schedule.objects.create(name="off", type="cli.greet", every_s=60, enabled=False)

    text, failing = jobs("schedules").out, jobs("schedules", "--failing", "--json").data

    assert "At 06:00 every day (UTC)" in text
    assert "KeyError: 'day' Tried 2 times." in text
    assert "off" in text
    assert [(one["name"], one["failing"]) for one in failing] == [("bad", True)]


@pytest.mark.parametrize("word", ["submit", "types"])
@pytest.mark.parametrize(
    ("name", "meant"), [("cli.great", "cli.greet"), ("greet", "cli.greet"), ("zzz.zzz", "")]
)
def test_an_unknown_type_suggests_near_ones(word: str, name: str, meant: str) -> None:
    said = jobs(word, name)

    assert said.code == 1
    assert f"There is no job type '{name}'." in said.err
    assert (f"Did you mean {meant}" in said.err) if meant else ("Did you mean" not in said.err)


# --- submit ---------------------------------------------------------------------------------------------------------


def test_submit_prints_the_id_alone_for_scripts_to_keep() -> None:
    said = jobs("submit", "cli.greet", "name=bia")

    stored = Job.objects.get(pk=said.out.strip())
    assert said.code == 0
    assert stored.params["name"] == "bia"
    assert stored.submitted_by.startswith("cli:")
    assert "manage.py jobs show" in said.err


def test_options_reach_the_job() -> None:
    made = Job.objects.get(
        pk=submitted("--queue=default", "--priority=high", "--delay=1h", "--expires-in=2h", "--unique=k")
    )

    assert (made.priority_name, made.shown_state, made.unique_key) == ("high", "scheduled", "cli.greet:k")
    assert round((made.run_at - made.created_at).total_seconds()) == 3600
    assert made.expires_at
    assert round((made.expires_at - made.created_at).total_seconds()) == 7200


def test_a_moment_reaches_the_job() -> None:
    year = datetime.now(UTC).year + 2
    made = Job.objects.get(pk=submitted(f"--run-at={year}-01-01T09:00-03:00"))

    assert made.run_at.isoformat() == f"{year}-01-01T12:00:00+00:00"


def test_a_second_job_with_the_same_key_is_the_first_one() -> None:
    first = submitted("--unique=k")

    said = jobs("submit", "cli.greet", "--unique=k")

    assert said.out.strip() == str(first)
    assert "already waits or runs" in said.err


def test_a_file_is_uploaded_first(tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_bytes(b"roses are red")

    made = Job.objects.get(pk=jobs("submit", "cli.read", "--file", f"text={path}").out.strip())

    file = File.objects.get(pk=made.params["text"])
    assert (file.name, file.content_type) == ("verse.txt", "text/plain")
    assert open_file(made.params["text"]).read() == b"roses are red"


def test_wait_returns_with_the_result() -> None:
    with Hand("succeeded", result='{"text": "hello"}'):
        said = jobs("submit", "cli.greet", "--wait")

    assert said.code == 0
    assert "succeeded" in said.out
    assert '{"text": "hello"}' in said.out


def test_wait_fails_when_the_job_does_and_shows_why() -> None:
    with Hand("given_up", error='{"type": "GiveUp", "message": "no [ink]", "traceback": "line 1"}'):
        said = jobs("submit", "cli.greet", "--wait")

    assert said.code == 1
    assert "GiveUp: no [ink]" in said.out
    assert "line 1" in said.out


def test_wait_as_json_prints_the_job_as_the_api_does() -> None:
    with Hand("succeeded", result="{}"):
        said = jobs("submit", "cli.greet", "--wait", "--json")

    [one] = said.data
    assert (one["state"], one["type"], one["files"]) == ("succeeded", "cli.greet", [])
    assert one["params"] == {"name": "ana"}  # its secret went with its end


def test_wait_says_what_holds_a_job_up() -> None:
    Worker.objects.create(
        name="w",
        incarnation="b.1.2",
        host="h",
        pid=1,
        queues=["other"],
        types=["cli.greet"],
        last_seen=datetime.now(UTC) + timedelta(hours=1),  # a slow start of the command must not outlast it
    )
    process = shell("jobs", "submit", "demo.greet", "--wait")

    assert process.stderr
    assert process.stderr.readline() == "Waiting: no worker reads the queue default.\n"
    operate.pause("default", by="bia", reason="the printer is out of paper")
    assert "the queue default is paused by bia (the printer is out of paper)" in process.stderr.readline()

    operate.cancel(Job.objects.get().pk, by="test")
    assert said_by(process).code == 1


def test_interrupting_a_wait_leaves_the_job_alone() -> None:
    process = shell("jobs", "submit", "demo.greet", "--wait")
    until(Job.objects.exists, "the job was submitted")
    assert process.stderr
    while "Waiting" not in (line := process.stderr.readline()):  # a slow Redis is complained about before
        assert line, "it ended without waiting"

    process.send_signal(signal.SIGINT)

    said = said_by(process)
    assert said.code == 130
    assert "The job continues." in said.err
    assert Job.objects.get().state == "queued"


# --- show -----------------------------------------------------------------------------------------------------------


def finished_with_a_file() -> UUID:
    made = submitted("name=bia")
    start(made)
    with open_result(made, 1, "verse.txt", "text/plain", db=DjangoConnection()) as file:
        file.write(b"violets are blue")
    JobLog.objects.create(job_id=made, attempt=1, text="".join(f"line {n}\n" for n in range(30)))
    finish_it(made, result="{}", files=True)
    return made


def test_show_tells_all_and_hides_secrets() -> None:
    made = finished_with_a_file()
    before = jobs("show", str(submitted())).out

    text = jobs("show", str(made)).out

    assert "**********" in before
    for word in (
        "succeeded",
        str(made),
        "bia",
        "verse.txt",
        "16 B",
        "line 29",
        "1 of 4",
    ):
        assert word in text
    assert "hunter2" not in before + text
    assert "line 3\n" not in text
    assert "line 3\n" in jobs("show", str(made), "--logs").out


def test_a_failure_shows_its_events() -> None:
    made = submitted()
    end(made, "failed", error='{"type": "OSError", "message": "away"}', delay_s=60.0)

    text = jobs("show", str(made)).out

    assert "retrying" in text
    assert "OSError: away; next try after 1 min" in text


def test_save_writes_the_result_files(tmp_path: Path) -> None:
    made = finished_with_a_file()

    said = jobs("show", str(made), "--save", str(tmp_path / "new"))

    assert (tmp_path / "new" / "verse.txt").read_bytes() == b"violets are blue"
    assert f"saved {tmp_path}/new/verse.txt" in said.err


def test_save_to_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    said = jobs("show", str(finished_with_a_file()), "--save", str(tmp_path / "file"))

    assert said.code == 2
    assert "File exists" in said.err or "Not a directory" in said.err


@pytest.mark.parametrize(
    "cut", [lambda i: str(i), lambda i: i.hex, lambda i: str(i)[-12:], lambda i: i.hex[-8:].upper()]
)
def test_a_job_is_named_by_its_id_or_its_end(cut: Any) -> None:
    made = submitted()
    submitted()

    assert str(made) in jobs("show", cut(made)).out


def test_what_is_no_id_is_a_usage_error() -> None:
    for word in ("1234567", "nothing!", "z" * 36):
        said = jobs("show", word)
        assert said.code == 2
        assert "give the whole id, or at least its last 8 digits" in said.err


def test_an_unknown_id_is_refused() -> None:
    assert jobs("show", str(ids.uuid7())).code == 1
    assert "give the whole id" in jobs("show", "abcdef0123").err


def test_an_end_that_several_ids_have_names_them() -> None:
    DjangoConnection().fetch(
        """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s)
           SELECT ('01900000-0000-7000-8000-00' || n || '00000abc')::uuid, 'cli.greet', '{}', 'default', 6, 1, 1, 1, 1
           FROM generate_series(10, 11) AS n"""
    )

    said = jobs("show", "00000abc")

    assert said.code == 1
    assert "01900000-0000-7000-8000-001000000abc" in said.err
    assert "01900000-0000-7000-8000-001100000abc" in said.err


# --- list -----------------------------------------------------------------------------------------------------------


def test_list_shows_the_newest_first_and_says_there_are_more() -> None:
    first, second = submitted(), submitted()

    said = jobs("list")

    assert said.out.index(str(second)[-12:]) < said.out.index(str(first)[-12:])
    assert "There are more" in jobs("list", "--limit=1").err


def test_list_filters_by_state_type_and_queue() -> None:
    waiting, later, done = submitted(), submitted("--delay=1h"), submitted()
    end(done, result="{}")

    def found(*words: str) -> set[UUID]:
        return {UUID(one["id"]) for one in jobs("list", "--json", *words).data}

    assert found() == {waiting, later, done}
    assert found("--state=scheduled") == {later}
    assert found("--state=queued", "--state=succeeded") == {waiting, done}
    assert found("--type=cli.read") == set()
    assert found("--queue=default", "--type=cli.greet") == {waiting, later, done}


def test_an_empty_list_says_what_to_do() -> None:
    assert "manage.py jobs demo" in jobs("list").err
    assert "No job matches these filters." in jobs("list", "--state=dead").err
    assert jobs("list", "--json").out == ""


# --- retry and cancel -----------------------------------------------------------------------------------------------


def test_retry_and_cancel_take_several_and_go_on_after_a_refusal() -> None:
    waiting, done, secret = open_job(), submitted(), submitted()
    end(done, result="{}")

    said = jobs("cancel", str(done), str(waiting))
    jobs("cancel", str(secret))
    refused = jobs("retry", str(secret))
    again = jobs("retry", str(waiting)[-12:], "--json")

    assert said.code == 1
    assert f"job {done} is succeeded; it cannot be cancelled." in said.err
    assert f"{str(waiting)[-12:]}  cancelled" in said.out
    assert "its secret parameters were removed when it ended" in refused.err
    assert again.code == 0
    assert again.data == [{"id": str(waiting), "state": "queued"}]


def test_cancel_of_a_running_job_asks_it_and_by_force_ends_it() -> None:
    made = submitted()
    start(made)

    asked = jobs("cancel", str(made))
    forced = jobs("cancel", "--force", str(made))

    assert "asked to stop at its next check" in asked.out
    assert "its process is ended" in forced.out
    assert Job.objects.get(pk=made).cancel_force


# --- The command itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: WORD"),
        (["dance"], "invalid choice: 'dance'"),
        (["submit"], "the following arguments are required: TYPE"),
        (["submit", "demo.greet", "name"], "write name=text, name:=JSON, or --file name=path."),
        (["submit", "demo.greet", "--delay=soon"], "'soon' is no duration"),
        (["submit", "demo.greet", "--what"], "unrecognized arguments: --what"),
        (["list", "--state=lost"], "invalid choice: 'lost'"),
        (["list", "--limit=0"], "must be a whole number from 1"),
    ],
)
def test_a_typing_mistake_is_exit_code_2(words: list[str], sentence: str) -> None:
    said = said_by(shell("jobs", *words))

    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_values_may_stand_on_both_sides_of_an_option() -> None:
    said = said_by(shell("jobs", "submit", "demo.slow", "seconds=1", "--json", "steps=2"))

    assert said.code == 0
    assert Job.objects.get().params == {"seconds": 1.0, "steps": 2}


def test_no_database_is_one_sentence() -> None:
    said = said_by(shell("jobs", "list", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"))

    assert said.code == 69
    assert said.err.startswith(
        "The database at 127.0.0.1:1 does not answer. Start `make run`, or check DATABASE_URL."
    )
    assert said.err.count("\n") == 1


def test_no_settings_are_one_sentence(tmp_path: Path) -> None:
    said = said_by(shell("jobs", "list", SECRET_KEY="", DATABASE_URL="", DATA_DIR=str(tmp_path)))

    assert said.code == 1
    assert said.err.startswith(
        "SECRET_KEY is not set. `make run`, compose and Kubernetes set it: start one of them"
    )
    assert said.err.count("\n") == 1


def test_settings_come_from_the_folder_of_the_running_stack(tmp_path: Path) -> None:
    lines = [f"{name}={os.environ[name]}" for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")]
    (tmp_path / "env").write_text("\n".join(lines))
    made = submitted()
    env = {k: v for k, v in environment().items() if k not in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")}

    said = subprocess.run(
        [sys.executable, "manage.py", "jobs", "list", "--json"],
        cwd=ROOT,
        env={**env, "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["id"] == str(made)


def test_a_database_without_tables_says_to_migrate(servers: Any) -> None:
    address = servers.postgres.url.rsplit("/", 1)[0] + "/postgres"

    said = said_by(shell("jobs", "list", DATABASE_URL=address))

    assert said.code == 69
    assert said.err == "The database lacks tables of this release: run `manage.py migrate`.\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    for _ in range(3):
        submitted()

    said = subprocess.run(
        f"{sys.executable} manage.py jobs list --json | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (said.returncode, said.stderr) == (0, "")
    assert len(said.stdout.splitlines()) == 1
