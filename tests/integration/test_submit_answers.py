"""The answer of a submit over HTTP: made from the one statement that stores the job, and sent after its commit."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.test import Client

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.models import Job
from esteira_web.accounts.accepted import KEPT_S
from tests.support.clients import KNOWN, bearer, get, post
from tests.support.waiting import until
from tests.support.web_with_servers import WebWithServers, run_web_with_servers

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "later": {"delay": 3600},
    "at once": {"delay": 0},
    "at a moment": {"run_at": "2030-01-31T09:00:00.123456+03:00"},
    "at a moment that has passed": {"run_at": "2001-01-31T09:00:00Z"},
    "expiring": {"expires_in": 7200.5},
    "unique": {"unique": "july"},
    "elsewhere": {"queue": "mail", "priority": "low"},
}
#: Values that PostgreSQL stores in another form, or that JSON can write in several.
PARAMS: dict[str, Any] = {
    "nothing": {},
    "numbers": {"whole": 2**70, "small": 1e-7, "large": 1e300, "zero": -0.0, "half": 1.50},
    "texts": {"ü": "ñ\u2028\U0001f600", "quoted": '"\\\n'},
    "order": {"zz": 1, "a": {"b": [1, {"z": None, "y": True}]}},
}


@pytest.fixture
def any_type(types: None) -> str:
    @job(name="t.any")
    def anything(ctx: Context, what: dict[str, Any]) -> None:
        """Take anything."""

    return "t.any"


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["operator", "submitter"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_answer_is_what_get_returns(types: None, role: str, options: dict[str, Any]) -> None:
    client = bearer(role)

    told = post(client, "/jobs", {**KNOWN, "options": options}).json()

    assert told.pop("deduplicated") is False
    assert told == get(client, f"/jobs/{told['id']}").json()


@pytest.mark.django_db
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_the_answer_has_the_parameters_as_they_were_stored(
    operator: Client, any_type: str, params: dict[str, Any]
) -> None:
    sent = post(operator, "/jobs", {"type": any_type, "params": {"what": params}})

    told = sent.json()
    read = get(operator, f"/jobs/{told['id']}")
    assert _params(sent) == _params(read)


def _params(response: Any) -> str:
    """Return the parameters as they are written, so that 1.0 differs from 1."""
    return json.dumps(json.loads(response.content)["params"])


@pytest.mark.django_db
def test_a_job_that_stands_in_is_told_as_it_is_now(types: None) -> None:
    client = bearer("submitter")
    unique = {**KNOWN, "options": {"unique": "july"}}
    first = post(client, "/jobs", unique).json()
    Job.objects.update(failures=1, attempt=1, progress_done=3)

    second = post(client, "/jobs", unique).json()

    assert second.pop("deduplicated") is True
    assert second == get(client, f"/jobs/{first['id']}").json()


@pytest.fixture
def no_commit(core: PrivateConnection) -> Iterator[None]:
    """Let every commit of a new job fail, after its statement has succeeded."""
    core.fetch(
        """CREATE FUNCTION no_commit() RETURNS trigger LANGUAGE plpgsql
           AS $$ BEGIN RAISE EXCEPTION 'the commit fails' USING ERRCODE = 'io_error'; END $$"""
    )
    core.fetch(
        """CREATE CONSTRAINT TRIGGER no_commit AFTER INSERT ON esteira_job DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION no_commit()"""
    )
    yield
    core.fetch("DROP FUNCTION no_commit() CASCADE")


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k1"}], ids=["plain", "with a key"])
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_a_failed_commit_is_never_answered_with_success(
    operator: Client, types: None, no_commit: None, path: str, headers: dict[str, str]
) -> None:
    body = KNOWN if path == "/jobs" else {"jobs": [KNOWN, KNOWN]}

    answer = post(operator, path, body, **headers)

    assert answer.status_code == 503
    assert "Location" not in answer.headers
    assert not Job.objects.exists()


# --- A real server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWithServers]:
    yield from run_web_with_servers(Path(tmp_path_factory.mktemp("submits")), WEB_THREADS="1")


@pytest.mark.slow
def test_a_submit_is_one_statement(site: WebWithServers) -> None:
    """Of the connections without a name, which are Django's: no check of the connection, no look-up, no transaction."""
    with psycopg.connect(site.postgres.url, autocommit=True) as db:
        db.execute("ALTER SYSTEM SET log_line_prefix = '<%a> '")
        db.execute("ALTER SYSTEM SET log_statement = 'all'")
        db.execute("SELECT pg_reload_conf()")
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)) as connection:
        until(lambda: _submit(site, connection) or _statements(site, 0), "statements are logged")
        before, began = site.postgres.log.stat().st_size, time.monotonic()
        for _ in range(10):
            _submit(site, connection)
        took = time.monotonic() - began

    statements = _statements(site, before)
    look_ups = [one for one in statements if "FROM esteira_web_apitoken t" in one]
    others = [one for one in statements if one not in look_ups]
    assert len(look_ups) <= took / KEPT_S + 1, "the token is looked up every two seconds"
    assert len(others) == 10
    assert all("INSERT INTO esteira_job" in one for one in others)


def _statements(site: WebWithServers, after: int) -> list[str]:
    """Return the statements of connections without a name, which are in the server's log after a place."""
    lines = re.split(r"^<", site.postgres.log.read_bytes()[after:].decode(), flags=re.MULTILINE)
    return [line for line in lines if re.match(r"\[unknown\]> LOG:  (statement|execute [^:]*):", line)]


def _submit(site: WebWithServers, connection: http.client.HTTPConnection) -> None:
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/jobs", b'{"type": "demo.greet"}', headers)
    with connection.getresponse() as answer:
        answer.read()
        assert answer.status == 202
