"""Health as anybody may ask for it; how a real process answers without its servers is in `test_server`."""

from __future__ import annotations

from threading import Event

import pytest
from django.db import connection
from django.test import Client

from esteira.db import PrivateConnection
from esteira_web.server import health

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_answers_anybody(path: str) -> None:
    response = Client().get(path)

    assert response.status_code == 200
    assert response.json()["status"] == "pass"


def test_a_process_that_waits_for_migrations_is_not_ready(core: PrivateConnection) -> None:
    database = health.Database()
    changed = core.fetch(
        "UPDATE django_migrations SET name = 'x' || name WHERE app = 'esteira_web' RETURNING 1"
    )
    try:
        assert database() == f"fail: {len(changed)} migrations are pending"
    finally:
        core.fetch("UPDATE django_migrations SET name = substr(name, 2) WHERE app = 'esteira_web'")

    assert database() == "pass"


def test_a_check_that_hangs_holds_up_nobody_else() -> None:
    leave = Event()
    stuck = health.Check("stuck", lambda: "pass" if leave.wait(20) else "late")
    try:
        first, second = stuck.begin(), stuck.begin()
        assert first is second
        assert not first.done()
    finally:
        leave.set()

    assert first.result(20) == "pass"


def test_a_release_whose_tables_are_not_there_yet_answers_503_and_stores_nothing(
    admin_client: Client,
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE esteira_job RENAME TO esteira_job_later")
    try:
        page = admin_client.get("/")
        api = admin_client.get("/api/v1/jobs")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE esteira_job_later RENAME TO esteira_job")

    assert (page.status_code, api.status_code) == (503, 503)
    assert api.headers["Retry-After"]
    assert api.json()["type"] == "/problems/not-migrated"
