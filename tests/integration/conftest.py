"""A private connection to the empty database, as leases, flushes and the keeper use, a pool process's runner, an API."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from esteira.db import PrivateConnection
from project.kubernetes import api
from tests.support.kubernetes_api import KubernetesApi
from tests.support.web_server import WebServer

if TYPE_CHECKING:  # models may be imported once Django is set up, and this file is read before
    from django.test import Client

    from esteira.runner.runner import Runner

#: What keeps rows out that Python cannot read, or that no schedule can be.
CONSTRAINTS = {
    "esteira_job": ["job_moments", "job_numbers", "job_failed_has_error", "job_priority"],
    "esteira_schedule": ["schedule_bounds", "schedule_cadence"],
}


@pytest.fixture
def core(database: None) -> Iterator[PrivateConnection]:
    core = PrivateConnection("test")
    yield core
    core.close()


@pytest.fixture
def fresh_publisher() -> Iterator[None]:
    """A publisher that knows nothing of Redis yet."""
    from esteira.broker import publisher

    publisher.fast.forget()
    yield
    publisher.fast.forget()


@pytest.fixture
def types(job_types: None) -> None:
    """The job types that callers of the API and the pages submit."""
    from tests.support.clients import declare_types

    declare_types()


@pytest.fixture
def operator(database: None) -> Client:
    """A client of the API with an operator's token."""
    from tests.support.clients import bearer

    return bearer("operator")


@pytest.fixture(scope="session")
def the_runner() -> Iterator[Runner]:
    """One for all tests, as in a pool process; its heartbeat runs until the suite ends."""
    from esteira.runner.job_log import Capture
    from esteira.runner.runner import Runner

    before = signal.getsignal(signal.SIGUSR2)
    runner = Runner("w1/boot-1-1")
    runner.start()
    yield runner
    signal.signal(signal.SIGUSR2, before)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Capture)]:
        root.removeHandler(handler)


@pytest.fixture
def runner(the_runner: Runner, database: None) -> Runner:
    the_runner.core.close()
    logging.getLogger("jobs").setLevel(logging.INFO)
    return the_runner


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """Kubernetes' API, as this process sees it if it is a pod."""
    kubernetes = KubernetesApi(tmp_path / "serviceaccount")
    monkeypatch.setattr(api, "ACCOUNT", kubernetes.account)
    for name, value in kubernetes.env.items():
        monkeypatch.setenv(name, value)
    yield kubernetes
    kubernetes.stop()


@pytest.fixture
def unbound(core: PrivateConnection) -> Iterator[None]:
    """Take the constraints away, and put them back over an empty table."""
    kept = {
        (table, name): core.fetch(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s AND conrelid = %s::regclass",
            [name, table],
        )[0][0]
        for table, names in CONSTRAINTS.items()
        for name in names
    }
    for table, name in kept:
        core.fetch(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    yield
    connection.close()
    core.fetch("TRUNCATE esteira_job, esteira_schedule CASCADE")
    for (table, name), definition in kept.items():
        core.fetch(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


@pytest.fixture(scope="session")
def served(django_db_setup: None) -> Iterator[WebServer]:
    """gunicorn on the suite's own servers; a test that uses it asks for the database as well, to find it empty."""
    served = WebServer()
    try:
        served.start()
        yield served
    finally:
        served.stop()
