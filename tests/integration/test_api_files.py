"""Files through the API, there and back; job types; the API's own description."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from esteira import files
from esteira.db import PrivateConnection
from esteira.files import CHUNK_BYTES, open_file, open_result
from esteira.files.space import used
from esteira.models import File
from esteira.record.finish import finish
from tests.support.clients import get, problem
from tests.support.jobs import outcome, running

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    used.forget()


def test_an_upload_comes_back_by_its_id(operator: Client) -> None:
    data = os.urandom(CHUNK_BYTES + 10)

    response = operator.post("/api/v1/files", {"file": SimpleUploadedFile("../café.png", data, "image/png")})

    body = response.json()
    assert response.status_code == 201
    assert (body["name"], body["size"], body["content_type"]) == ("café.png", len(data), "image/png")
    assert body["sha256"] == hashlib.sha256(data).hexdigest()
    assert open_file(body["id"]).read() == data


def test_the_bytes_themselves_can_be_uploaded(operator: Client) -> None:
    response = operator.post(
        "/api/v1/files?name=a.pdf", b"%PDF", content_type="application/x-www-form-urlencoded"
    )

    body = response.json()
    assert (response.status_code, body["name"], body["content_type"]) == (201, "a.pdf", "application/pdf")
    assert open_file(body["id"]).read() == b"%PDF"


def test_an_upload_needs_one_file_and_a_name(operator: Client) -> None:
    two = {"a": SimpleUploadedFile("a", b"x"), "b": SimpleUploadedFile("b", b"x")}

    answers = [
        operator.post("/api/v1/files", two),
        operator.post("/api/v1/files", {"text": "x"}),
        operator.post("/api/v1/files", b"x", content_type="text/plain"),
    ]

    assert [problem(answer)["errors"][0]["parameter"] for answer in answers] == ["file", "file", "name"]
    assert {answer.status_code for answer in answers} == {422}
    broken = operator.post("/api/v1/files", b"nonsense", content_type="multipart/form-data; boundary=x")
    assert broken.status_code in (400, 422)
    assert not File.objects.exists()


def test_an_upload_over_the_limit_is_refused(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1000)

    answers = [
        operator.post("/api/v1/files?name=a", b"x" * 1001, content_type="text/plain"),
        operator.post("/api/v1/files", {"file": SimpleUploadedFile("a", b"x" * 1001)}),
    ]

    assert [(a.status_code, problem(a)["type"]) for a in answers] == [(413, "/problems/too-large")] * 2
    assert not File.objects.exists()


def test_an_upload_without_space_is_refused(operator: Client, settings) -> None:
    settings.ESTEIRA_FILES_MAX_TOTAL = 100

    response = operator.post("/api/v1/files?name=a", b"x" * 101, content_type="text/plain")

    assert (response.status_code, problem(response)["type"]) == (507, "/problems/files-full")


@pytest.fixture
def with_file(core: PrivateConnection) -> Iterator[tuple[str, str, bytes]]:
    """A job that has succeeded with a file, whose name is as nasty as names may be."""
    name, data = 'naïve "report"; x=1.html', os.urandom(2 * CHUNK_BYTES + 1)
    (claimed,) = running(core)
    with open_result(claimed.id, claimed.attempt, name, db=core) as out:
        out.write(data)
    finish(core, [outcome(claimed, files=True)])
    yield str(claimed.id), name, data


def test_a_result_file_is_listed_and_downloaded(operator: Client, with_file: tuple[str, str, bytes]) -> None:
    job_id, name, data = with_file

    (item,) = get(operator, f"/jobs/{job_id}/files").json()["items"]
    response = operator.get(item["url"])

    assert (item["name"], item["size"], item["sha256"]) == (name, len(data), hashlib.sha256(data).hexdigest())
    assert response.getvalue() == data
    assert response.headers["Content-Length"] == str(len(data))
    assert response.headers["Content-Type"] == "text/html"
    assert response.headers["Content-Disposition"].startswith("attachment; filename*=utf-8''na%C3%AFve")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert operator.get(item["url"], headers={"If-None-Match": response.headers["ETag"]}).status_code == 304


def test_a_file_of_another_name_or_job_is_not_found(
    operator: Client, with_file: tuple[str, str, bytes]
) -> None:
    job_id, name, _ = with_file
    upload = operator.post("/api/v1/files?name=mine.txt", b"x", content_type="text/plain").json()

    for path in (
        f"/jobs/{job_id}/files/other",
        f"/jobs/{uuid4()}/files/{name}",
        f"/jobs/{job_id}/files/{upload['id']}",
    ):
        assert get(operator, path).status_code == 404


def test_job_types_come_with_their_schema(operator: Client) -> None:
    types = {one["name"]: one for one in get(operator, "/job-types").json()["items"]}

    note = types["t.note"]
    assert (note["title"], note["queue"], note["priority"], note["max_tries"]) == (
        "Write a note",
        "default",
        "normal",
        4,
    )
    assert note["schema"]["properties"]["text"]["maxLength"] == 20
    assert note["schema"]["required"] == ["text"]
    assert get(operator, "/job-types/t.note").json() == note


def test_the_description_knows_every_job_type_and_every_answer_of_ours(operator: Client) -> None:
    told = get(operator, "/openapi.json").json()

    parts = told["components"]["schemas"]
    assert told["openapi"].startswith("3.1")
    assert {"$ref": "#/components/schemas/t.note"} in parts["SubmitJob"]["oneOf"]
    assert parts["t.note.params"]["required"] == ["text"]
    assert "/api/v1/jobs/{job_id}" in told["paths"]
    refusal = told["paths"]["/api/v1/jobs"]["post"]["responses"]["422"]
    assert list(refusal["content"]) == ["application/problem+json"]
    references = {one for one in _references(told) if one.startswith("#/components/schemas/")}
    assert {one.rsplit("/", 1)[-1] for one in references} <= set(parts)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
