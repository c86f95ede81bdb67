"""The disk of PostgreSQL fills while jobs are submitted and run: what is refused, what stops, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import psycopg
import pytest

from project.local.embedded import Postgres
from project.local.embedded_launch import EmbeddedError
from tests.support.api_client import Answer, ApiClient
from tests.support.invariants import check
from tests.support.process_stack import ProcessStack, Servers
from tests.support.small_disk import OnSmallDisk, SmallDisk, small_disk
from tests.support.waiting import until

BEFORE_MB, AFTER_MB = 200, 400
FULL = "The disk of the database is full, so nothing was stored."


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk(BEFORE_MB) as disk:
        yield disk


@pytest.fixture
def stack(disk: SmallDisk, tmp_path: Path) -> Iterator[ProcessStack]:
    servers = Servers(OnSmallDisk(disk))
    (tmp_path / "logs").mkdir()
    stack = ProcessStack(servers, tmp_path / "logs")
    try:
        yield stack
    finally:
        stack.stop()
        servers.stop()


@contextmanager
def submitting(api: ApiClient) -> Iterator[None]:
    """Submit all the while; each is repeated until it is accepted, and any answer but 503 meanwhile is a failure."""
    over = Event()

    def go_on() -> None:
        n = 0
        while not over.is_set():
            n += 1
            api.submit(f"order-{n}", "effects.transfer" if n % 3 else "plain.nap", {}, over)
            over.wait(0.02)

    with ThreadPoolExecutor(1) as pool:
        submits = pool.submit(go_on)
        try:
            yield
        finally:
            over.set()
        submits.result()


def test_a_full_disk_refuses_what_does_not_fit_and_loses_nothing(
    disk: SmallDisk, stack: ProcessStack
) -> None:
    processes = [stack.web(), stack.worker("w1"), stack.worker("w2"), stack.beat()]
    api = stack.api()
    postgres = stack.postgres

    with submitting(api):
        until(lambda: stack.db.counts().get("succeeded", 0) >= 20, "jobs run")
        disk.fill()

        # PostgreSQL lives, and stores nothing that needs a new page.
        refused = until(lambda: _refused(api, disk), "submits are refused, and why is told")
        assert refused and refused.headers["Retry-After"]
        assert api.request("/readyz").status == 200, "it can be read"

        # At the next checkpoint, of a quarter of an hour at most, it stops, and cannot start any more.
        until(lambda: _stops_at_a_checkpoint(postgres, disk), "PostgreSQL has stopped", every=1)
        for _ in range(2):
            disk.fill()
            with pytest.raises(EmbeddedError, match="No space left on device"):
                postgres.start()
        until(lambda: api.request("/readyz").status == 503, "web says that the database is away")
        assert all(process.alive() for process in processes)

        disk.enlarge(AFTER_MB)
        accepted = len(api.accepted)
        postgres.start()

        until(lambda: len(api.accepted) > accepted + 5, "jobs are accepted again")

    stack.wait_ended()
    assert all(process.alive() for process in processes)
    check(stack.db, api.accepted.values())
    assert set(stack.db.counts()) == {"succeeded"}


def _refused(api: ApiClient, disk: SmallDisk) -> Answer | None:
    """Ask for one more than is being asked for, while what becomes free is taken."""
    disk.fill()
    answer = api.request("/api/v1/jobs", {"type": "plain.nothing"})
    return answer if answer.status == 503 and FULL in answer.json()["detail"] else None


def _stops_at_a_checkpoint(postgres: Postgres, disk: SmallDisk) -> bool:
    """Ask for one, if it still lets anybody in; whoever asked has lost the connection then."""
    disk.fill()
    with suppress(psycopg.Error), psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        connection.execute("SELECT 1")
    return postgres.process is not None and postgres.process.poll() is not None
