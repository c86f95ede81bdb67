"""A server that cannot write for a moment is absent: what ended waits to be written, and nothing becomes a failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from esteira import Context, job
from esteira.db import ConnectionLost, PrivateConnection
from esteira.job_types.registry import registry
from esteira.runner.runner import Runner
from tests.support.run_hints import events, run
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database", "job_types")


class Server:
    """The suite's server as a fail-over leaves it for a moment: each new session may read only."""

    def __init__(self, core: PrivateConnection, runner: Runner) -> None:
        self.core, self.runner = core, runner
        self.name = core.fetch("SELECT current_database()")[0][0]

    def forbid_writing(self) -> None:
        self.core.fetch(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        self.runner.core.close()
        connection.close()

    def allow_writing(self) -> None:
        self.core.fetch(f"ALTER DATABASE {self.name} RESET default_transaction_read_only")

    @contextmanager
    def mending(self, caplog: Any, said: str) -> Iterator[None]:
        """Allow writing again as soon as the log has said this twice."""

        def mend() -> None:
            try:
                until(lambda: caplog.text.count(said) > 1, f"it says twice: {said}")
            finally:
                self.allow_writing()

        mender = threading.Thread(target=mend)
        mender.start()
        yield
        mender.join()


@pytest.fixture
def server(core: PrivateConnection, runner: Runner) -> Iterator[Server]:
    server = Server(core, runner)
    yield server
    server.allow_writing()
    runner.core.close()
    connection.close()


WAITS = "outcomes wait to be written"


def test_ends_are_written_when_the_server_writes_again(runner: Runner, server: Server, caplog: Any) -> None:
    @job(name="test.ends", retries=0)
    def ends(ctx: Context, n: int) -> dict[str, int]:
        if n == 0:
            server.forbid_writing()
        if n == 2:
            raise ValueError("no")
        return {"n": n}

    ids = ends.submit_many({"n": n} for n in range(4))
    with server.mending(caplog, WAITS):
        rows = run(runner, *ids)

    assert [(row.state, row.attempt) for row in rows] == [
        ("succeeded", 1),
        ("succeeded", 1),
        ("failed", 1),
        ("succeeded", 1),
    ]
    assert [row.result for row in rows] == [{"n": 0}, {"n": 1}, None, {"n": 3}]
    assert rows[2].error["type"] == "ValueError"  # type: ignore[index]
    assert [event for row in rows for event in events(row)] == ["failed"]


def test_a_hint_that_comes_meanwhile_waits_and_is_not_forgotten(
    runner: Runner, server: Server, core: PrivateConnection
) -> None:
    @job(name="test.waits", retries=0)
    def waits(ctx: Context) -> int:
        return 1

    answer = waits.submit()
    server.forbid_writing()
    with pytest.raises(ConnectionLost):  # the claim will meet this
        runner.core.fetch("UPDATE esteira_job SET failures = failures")

    hint = threading.Timer(1.0, server.allow_writing)
    hint.start()
    (row,) = run(runner, answer.id)
    hint.join()

    assert (row.state, row.attempt, row.result) == ("succeeded", 1, 1)


def test_a_refusal_is_written_when_the_server_writes_again(
    runner: Runner, server: Server, caplog: Any
) -> None:
    def without(ctx: Context) -> None: ...

    def within(ctx: Context, n: int) -> None: ...

    answer = job(name="test.refused")(without).submit()

    @job(name="test.first")
    def first(ctx: Context) -> None:
        server.forbid_writing()

    ids = [first.submit().id, answer.id]
    registry.remove("test.refused")
    job(name="test.refused")(within)
    with server.mending(caplog, "wait"):
        rows = run(runner, *ids)

    assert [(row.state, row.attempt, row.failures) for row in rows] == [("succeeded", 1, 0), ("queued", 1, 0)]
    assert events(rows[1]) == ["refused"]
    assert rows[1].refused_since is not None


def test_a_completion_that_cannot_be_written_is_no_failure(
    runner: Runner, server: Server, caplog: Any
) -> None:
    @job(name="test.atomic", retries=0)
    def atomic(ctx: Context) -> int:
        if ctx.attempt == 1:
            server.forbid_writing()
        with ctx.completing() as done:
            done.result = ctx.attempt
        return 0

    answer = atomic.submit()
    with server.mending(caplog, "wait"):
        (row,) = run(runner, answer.id)
    assert (row.state, row.failures, row.suspicion, events(row)) == ("queued", 0, 1, ["rescued"])

    until(lambda: run(runner, answer.id)[0].state == "succeeded", "it has rested, and runs again")
    assert run(runner, answer.id)[0].result == 2
