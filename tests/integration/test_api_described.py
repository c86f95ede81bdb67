"""The API's description and the API agree: requests made from it, a client made from it, and its own examples.

`make fuzz MINUTES=10` makes requests for so long, at random; `make test` makes a few of them, the same ones each time.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from django.contrib.auth import get_user_model

from esteira.job_types.registry import registry
from esteira.runner.runner import Runner
from esteira_web.accounts.tokens import create_token
from esteira_web.api.openapi import described
from esteira_web.api.routes import api
from tests.repo.tree import ROOT
from tests.support.processes import Process
from tests.support.waiting import until
from tests.support.web_server import WebServer

pytestmark = pytest.mark.django_db
MINUTES = float(os.environ.get("MINUTES", "0"))
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def token(database: None) -> str:
    user = get_user_model().objects.create(username="root", password="!", is_superuser=True)
    return create_token(user, "test", role="operator")[1]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return described(api, registry.all())


# --- Requests made from the description ---------------------------------------------------------------------------------


@pytest.fixture
def fuzzed(served: WebServer, tmp_path: Path) -> Iterator[WebServer]:
    """Web, and a worker beside it when there is time: jobs end, and have files to be read."""
    if not MINUTES:
        yield served
        return
    (tmp_path / "logs").mkdir()
    command = ["celery", "-A", "project", "worker", "-l", "info", "--hostname", "w1@fuzz"]
    worker = Process("worker", command, {**os.environ}, tmp_path / "logs")
    worker.start()
    try:
        until(lambda: worker.touched("worker"), "the worker has started", timeout=60)
        yield served
    finally:
        worker.kill()


@pytest.mark.slow
@pytest.mark.fuzz
def test_fuzz_requests_made_from_the_description_find_nothing(
    fuzzed: WebServer, token: str, tmp_path: Path
) -> None:
    seed = os.environ.get("SEED") or str(os.getpid())
    at_random = ["--max-time", f"{MINUTES * 60:.0f}", "--generation-database", "none", "--seed", seed]
    briefly = ["--max-time", "15", "--max-examples", "2", "--generation-deterministic"]
    command = [str(PROGRAMS / "st"), "--config-file", str(ROOT / "schemathesis.toml"), "run"]
    command += [f"{fuzzed.url}/api/v1/openapi.json", "-H", f"Authorization: Bearer {token}"]
    done = subprocess.run(
        [*command, "--checks", "all", "--no-color", *(at_random if MINUTES else briefly)],
        cwd=tmp_path,  # it remembers what broke in its folder, and would try that first the next time
        capture_output=True,
        text=True,
        timeout=MINUTES * 60 + 300,
        check=False,
    )

    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert "Operations:       16 selected / 16 total" in done.stdout


# --- A client made from the description ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A package that a generator has written; it complains of nothing in the document."""
    home = tmp_path_factory.mktemp("client")
    (home / "openapi.json").write_text(json.dumps(document))
    program = str(PROGRAMS / "openapi-python-client")
    told = ["--path", str(home / "openapi.json"), "--output-path", str(home / "esteira_client")]
    done = subprocess.run(
        [program, "generate", *told, "--meta", "none", "--fail-on-warning"],
        env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(home))
    try:
        yield importlib.import_module("esteira_client")
    finally:
        sys.path.remove(str(home))


def test_a_client_made_from_the_description_submits_waits_and_reads(
    client: ModuleType, served: WebServer, token: str, runner: Runner
) -> None:
    jobs = importlib.import_module("esteira_client.api.jobs")
    models = importlib.import_module("esteira_client.models")
    for name in ("submit_job", "get_job", "list_jobs", "cancel_job"):
        importlib.import_module(f"esteira_client.api.jobs.{name}")
    caller = client.AuthenticatedClient(base_url=served.url, token=token)
    greeting = models.DemoGreet(
        type_="demo.greet",
        params=models.DemoGreetParameters(name="Ana"),
        options=models.SubmitOptions(unique="once", priority=models.SubmitOptionsPriorityType0.HIGH),
    )

    made = jobs.submit_job.sync(client=caller, body=greeting, idempotency_key="one")
    again = jobs.submit_job.sync(client=caller, body=greeting, idempotency_key="one")
    runner.run_hint([str(made.id)], "d1")
    ended = until(
        lambda: (job := jobs.get_job.sync(made.id, client=caller)).finished_at and job, "it has ended"
    )
    listed = jobs.list_jobs.sync(client=caller, state=[models.ListJobsStateItem.SUCCEEDED], limit=1)
    late = jobs.cancel_job.sync(made.id, client=caller, body=models.CancelJob(force=True))
    wrong = jobs.submit_job.sync(
        client=caller, body=models.DemoGreet(type_="demo.greet", params=models.DemoGreetParameters(name=""))
    )

    assert again.id == made.id
    assert (ended.state.value, ended.result, ended.priority.value) == (
        "succeeded",
        {"text": "Hello Ana"},
        "high",
    )
    assert [one.id for one in listed.items] == [made.id]
    assert (late.type_.value, late.status) == ("/problems/state-conflict", 409)
    assert [one.pointer for one in wrong.errors] == ["#/params/name"]


def test_a_client_reads_job_types_by_the_names_of_the_answers(
    client: ModuleType, served: WebServer, token: str
) -> None:
    get_type = importlib.import_module("esteira_client.api.job_types.get_type")
    caller = client.AuthenticatedClient(base_url=served.url, token=token)

    kind = get_type.sync("demo.greet", client=caller)

    assert kind.schema.additional_properties["properties"]["name"]["maxLength"] == 80


# --- The document itself ------------------------------------------------------------------------------------------------


def test_examples_are_what_their_schemas_say(document: dict[str, Any]) -> None:
    parts = document["components"]["schemas"]
    tried = 0
    for name, part in parts.items():
        validator = jsonschema.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": {"schemas": parts}}
        )
        for example in part.get("examples", []):
            validator.validate(example)
            tried += 1

    assert tried >= 5


def test_every_operation_says_what_all_answers_have(document: dict[str, Any]) -> None:
    operations = [one for path in document["paths"].values() for one in path.values()]
    headers = document["components"]["headers"]
    answers = [answer for one in operations for answer in one["responses"].values()]

    assert len({one["operationId"] for one in operations}) == len(operations) == 16
    assert all({"400", "401", "403", "422", "500", "503"} <= one["responses"].keys() for one in operations)
    assert all(any(status < "300" for status in one["responses"]) for one in operations)
    assert all("X-Request-ID" in answer["headers"] for answer in answers)
    assert {
        ref["$ref"].rsplit("/", 1)[-1] for a in answers for ref in a["headers"].values()
    } == headers.keys()
    assert all(one["security"] == [{"BearerToken": []}, {"Session": []}] for one in operations)
    assert document["servers"] == [{"url": "/"}]


def test_the_names_of_a_schema_are_those_of_the_answers(
    document: dict[str, Any], served: WebServer, token: str
) -> None:
    auth = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"type": "demo.greet", "params": {"name": "Ana"}}).encode()
    submitted = served.ask("POST", "/api/v1/jobs", body, auth).json()
    answers = {
        "JobBody": submitted,
        "JobPage": served.ask("GET", "/api/v1/jobs", None, auth).json(),
        "TypeBody": served.ask("GET", "/api/v1/job-types/demo.greet", None, auth).json(),
        "Schedules": served.ask("GET", "/api/v1/schedules", None, auth).json(),
        "ProblemBody": served.ask("GET", "/api/v1/jobs?limit=0&x=1", None, auth).json(),
    }

    for name, answer in answers.items():
        strict = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": _closed(document)}}
        jsonschema.Draft202012Validator(strict).validate(answer)


def _closed(document: dict[str, Any]) -> dict[str, Any]:
    """The schemas, refusing what they do not name: a client does not know it."""
    parts = document["components"]["schemas"]
    return {
        name: {**part, "unevaluatedProperties": False} if "properties" in part else part
        for name, part in parts.items()
    }
