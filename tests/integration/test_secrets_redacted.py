"""What a job says of its own secrets is not kept: not in its error, its log, its progress, its result, its events."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

from esteira import Context, GiveUp, Retry, Secret, job
from esteira.db import PrivateConnection
from esteira.files import result_files
from esteira.runner.runner import Runner
from esteira.runner.scrub import STARS, scrubber
from project.logging import JsonFormatter
from tests.support.run_hints import run

pytestmark = pytest.mark.usefixtures("database", "job_types")
PASSWORD = 'pä"ss w/ord\\8'
QUOTES = """it's "quoted" ç"""
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END KEY-----"
SPELLINGS = [
    *(PASSWORD, repr(PASSWORD)[1:-1], json.dumps(PASSWORD)[1:-1], quote(PASSWORD), quote(PASSWORD, safe="")),
    json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
    *(KEY, "MIIEvQIBADANBgkqhkiG9w0BAQ", "4711-0815"),
]


class Login(BaseModel):
    name: str
    pin: Secret


def said_everywhere(core: PrivateConnection) -> str:
    """Return all that is stored of jobs but the parameters, which the job needs."""
    parts = [
        "SELECT (to_jsonb(j) - 'params')::text FROM esteira_job j",
        "SELECT to_jsonb(e)::text FROM esteira_jobevent e",
        "SELECT to_jsonb(l)::text FROM esteira_joblog l",
    ]
    return "\n".join(str(row[0]) for sql in parts for row in core.fetch(sql))


def leaks(text: str) -> list[str]:
    """Name the spellings in a text, which may itself be JSON."""
    return [one for one in SPELLINGS if one in text or json.dumps(one, ensure_ascii=False)[1:-1] in text]


@pytest.fixture(params=[logging.Formatter("%(message)s"), JsonFormatter()], ids=["text", "json"])
def written(request: pytest.FixtureRequest) -> Any:
    """What a process writes of its log, with either formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def declare(way: str) -> Any:
    @job(name="said.all", retries=2)
    def all_ways(ctx: Context, password: Secret, key: Secret, login: Login) -> Any:
        """Say all that one should not."""
        plain = password.get_secret_value()
        words = [*SPELLINGS, plain]
        for word in words:
            ctx.log.info("with %s", word)
            ctx.progress(1, 2, word[:100])
        try:
            raise ValueError(f"cannot log in with {plain} {key.get_secret_value()}")
        except ValueError as error:
            ctx.log.exception("broken: %s", login.pin.get_secret_value())
            if way == "return":
                return {"words": words, plain: [words], "n": 1}
            kinds = {"raise": RuntimeError, "retry": Retry, "give up": GiveUp}
            raise kinds[way](" ".join(words)) from error

    return all_ways


@pytest.mark.parametrize("way", ["return", "raise", "retry", "give up"])
def test_secrets_of_an_attempt_are_stars_in_all_that_is_kept_of_it(
    runner: Runner, core: PrivateConnection, written: io.StringIO, way: str
) -> None:
    submitted = declare(way).submit(password=PASSWORD, key=KEY, login={"name": "ana", "pin": "4711-0815"})

    (row,) = run(runner, submitted.id)

    kept = said_everywhere(core)
    assert row.state == {"return": "succeeded", "give up": "failed"}.get(way, "queued")
    assert STARS in kept
    assert leaks(kept) == []
    assert "broken: **********" in written.getvalue()
    assert leaks(written.getvalue()) == []


def test_the_words_around_a_secret_stay(runner: Runner, core: PrivateConnection) -> None:
    submitted = declare("raise").submit(password=PASSWORD, key=KEY, login={"name": "ana", "pin": "4711-0815"})

    run(runner, submitted.id)

    assert "cannot log in with **********" in said_everywhere(core)


def test_what_is_too_short_is_not_looked_for() -> None:
    declare("raise")

    assert scrubber("said.all", '{"password": "abc", "key": "", "login": null}') is None
    assert scrubber("said.all", "[1") is None
    assert scrubber("no.such", '{"password": "long enough"}') is None


def test_progress_is_scrubbed_before_it_is_cut(runner: Runner) -> None:
    @job(name="said.long")
    def long(ctx: Context, password: Secret) -> None:
        """Say it where the text is cut."""
        ctx.progress(1, 2, "x" * 190 + password.get_secret_value())

    (row,) = run(runner, long.submit(password="a-secret-of-many-letters").id)

    assert row.progress_text == "x" * 190 + STARS


@pytest.mark.parametrize("before", ["", "x" * 190])
def test_the_name_of_an_errors_class_is_scrubbed(
    runner: Runner, core: PrivateConnection, before: str
) -> None:
    @job(name="said.class", retries=0)
    def named(ctx: Context, password: Secret) -> None:
        """Raise what is named like it."""
        raise type(before + password.get_secret_value(), (Exception,), {})("x")

    (row,) = run(runner, named.submit(password="a-secret-of-many-letters").id)

    assert row.error is not None
    assert row.error["type"] == before + STARS
    assert "a-secret" not in said_everywhere(core)


def test_the_name_of_a_result_file_is_scrubbed(runner: Runner) -> None:
    @job(name="said.file")
    def keep(ctx: Context, password: Secret) -> None:
        """Name a file after it."""
        with ctx.file(f"{password.get_secret_value()}.txt", f"text/{password.get_secret_value()}") as file:
            file.write(b"x")

    (row,) = run(runner, keep.submit(password="a-secret/of-letters").id)

    (file,) = result_files(row.pk)
    assert (file.name, "secret" in file.content_type) == (f"{STARS}.txt", False)


@pytest.mark.parametrize("secret", [PASSWORD, QUOTES, "it's only one", "long ago"])
def test_a_secret_is_found_as_python_and_json_write_it_inside_of_something_else(secret: str) -> None:
    declare("raise")
    scrub = scrubber("said.all", json.dumps({"password": secret}))
    assert scrub is not None

    wrapped = [
        *(repr({"a": secret}), repr([f'"{secret}"', "x"]), repr(f"""'"{secret}"""), str(secret.encode())),
        *(repr(b"'\"" + secret.encode()), json.dumps(json.dumps({"a": secret})), repr(json.dumps([secret]))),
        *(repr(repr([secret])), json.dumps(repr([secret])), json.dumps(repr(secret.encode()))),
        json.dumps(json.dumps([secret], ensure_ascii=False)),
        json.dumps(json.dumps([secret], ensure_ascii=False), ensure_ascii=False),
        quote(json.dumps({"a": secret})),
    ]

    assert [one for one in wrapped if STARS not in scrub(one) or secret[-6:-2] in scrub(one)] == []


def test_what_other_threads_log_while_the_job_runs_is_scrubbed_in_the_workers_log(
    runner: Runner, core: PrivateConnection, written: io.StringIO
) -> None:
    @job(name="said.thread")
    def threads(ctx: Context, password: Secret) -> None:
        """Say it in a thread of its own, as a library may."""

        def work() -> None:
            try:
                raise ValueError(f"cannot log in with {password.get_secret_value()}")
            except ValueError:
                logging.getLogger("some.library").exception("with %s", password.get_secret_value())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    (row,) = run(runner, threads.submit(password=PASSWORD).id)

    assert row.state == "succeeded"
    assert f"with {STARS}" in written.getvalue()
    assert f"cannot log in with {STARS}" in written.getvalue()
    assert leaks(written.getvalue()) == []
    assert leaks(said_everywhere(core)) == []


def test_the_next_job_of_the_process_says_what_it_likes(runner: Runner, core: PrivateConnection) -> None:
    @job(name="said.open")
    def open_job(ctx: Context, text: str) -> str:
        """Say it."""
        ctx.log.info("with %s", text)
        return text

    (row,) = run(runner, open_job.submit(text=PASSWORD).id)

    assert row.result == PASSWORD
    assert leaks(said_everywhere(core))
