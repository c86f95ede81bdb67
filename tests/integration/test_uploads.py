"""Uploads belong to accounts: who lists, reads, deletes and names them, and how much of them there may be."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from esteira import Context, FileRef, job
from esteira.db import PrivateConnection
from esteira.errors import InvalidParameters
from esteira.files import CHUNK_BYTES, open_result, save_upload
from esteira.files.uploads import may_name
from esteira.job_types.checking import check
from esteira.job_types.registry import registry
from esteira.models import File, FileChunk, Job
from esteira.record.finish import finish
from tests.support.clients import account, bearer, get, post, problem
from tests.support.jobs import outcome, running

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]


@pytest.fixture
def types(job_types: None) -> None:
    @job(name="t.read")
    def read(ctx: Context, file: FileRef, more: list[FileRef] = []) -> None:  # noqa: B006
        """Read a file."""


@pytest.fixture
def ana(database: None) -> Client:
    return bearer("submitter", user=account("ana", "submitter"))


@pytest.fixture
def rui(database: None) -> Client:
    return bearer("submitter", user=account("rui", "submitter"))


@pytest.fixture
def operator(database: None) -> Client:
    return bearer("operator")


def upload(client: Client, data: bytes = b"x", name: str = "a.txt", **headers: str) -> Any:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post(f"/api/v1/files?name={name}", data, content_type="text/plain", headers=named)


def id_of(client: Client, *args: Any) -> str:
    return str(upload(client, *args).json()["id"])


def test_an_upload_is_its_accounts_and_an_operators(ana: Client, rui: Client, operator: Client) -> None:
    file_id = id_of(ana, b"mine")

    for path in (f"/files/{file_id}", f"/files/{file_id}/content"):
        assert [get(one, path).status_code for one in (ana, operator, rui)] == [200, 200, 404]
    assert rui.delete(f"/api/v1/files/{file_id}").status_code == 404
    assert get(ana, f"/files/{file_id}/content").getvalue() == b"mine"
    assert [item["id"] for item in get(ana, "/files").json()["items"]] == [file_id]
    assert get(rui, "/files").json()["items"] == []
    assert [item["account"] for item in get(operator, "/files").json()["items"]] == [
        File.objects.get().account
    ]
    assert get(bearer("viewer"), "/files").status_code == 403


def test_any_token_of_an_account_reads_its_uploads(database: None) -> None:
    ana = account("ana", "submitter")
    file_id = id_of(bearer("submitter", user=ana))
    page = Client()
    page.force_login(ana)

    assert get(bearer("submitter", user=ana), f"/files/{file_id}").status_code == 200
    assert get(page, f"/files/{file_id}").status_code == 200


def test_uploads_are_listed_page_by_page(ana: Client) -> None:
    made = [id_of(ana) for _ in range(5)]

    seen, cursor = [], ""
    while True:
        page = get(ana, f"/files?limit=2{cursor}").json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"

    assert seen == made[::-1]
    assert problem(get(ana, "/files?limit=0"))["errors"]
    assert problem(get(ana, "/files?cursor=x"))["errors"] == [
        {
            "parameter": "cursor",
            "code": "not-a-cursor",
            "detail": "is not a cursor of this server; start from the first page.",
        }
    ]


def test_a_deleted_upload_is_gone_with_its_bytes(ana: Client) -> None:
    file_id = id_of(ana, b"x" * (CHUNK_BYTES + 1))

    assert ana.delete(f"/api/v1/files/{file_id}").status_code == 204
    assert ana.delete(f"/api/v1/files/{file_id}").status_code == 404
    assert not File.objects.exists()
    assert not FileChunk.objects.exists()


def test_an_upload_that_a_job_waits_for_stays(ana: Client) -> None:
    file_id = id_of(ana)
    made = post(ana, "/jobs", {"type": "t.read", "params": {"file": file_id}}).json()["id"]

    told = problem(ana.delete(f"/api/v1/files/{file_id}"))
    post(ana, f"/jobs/{made}/cancel")

    assert (told["status"], told["type"]) == (409, "/problems/file-in-use")
    assert made in told["detail"]
    assert ana.delete(f"/api/v1/files/{file_id}").status_code == 204


@pytest.mark.parametrize("whose", ["nobody", "another"])
def test_a_file_that_one_may_not_name_is_refused_at_its_parameter(
    ana: Client, rui: Client, whose: str
) -> None:
    """In the same words, whether it is another's or nobody's."""
    mine, other = id_of(ana), str(uuid4()) if whose == "nobody" else id_of(rui)
    asked = {"type": "t.read", "params": {"file": other, "more": [mine, other]}}

    one = problem(post(ana, "/jobs", asked))
    batch = problem(post(ana, "/jobs/batch", {"jobs": [{"type": "t.read", "params": {"file": mine}}, asked]}))

    assert (one["status"], one["type"]) == (422, "/problems/invalid-parameters")
    assert [e["pointer"] for e in one["errors"]] == ["#/params/file", "#/params/more/1"]
    assert {e["detail"] for e in one["errors"]} == {
        "names no file that you may use: upload it first, and give the id from the answer."
    }
    assert batch["errors"][0]["pointer"] == "#/jobs/1/params/file"
    assert not Job.objects.exists()


def test_an_operator_names_anybodys_upload_and_nobody_one_that_is_not_there(
    ana: Client, operator: Client
) -> None:
    asked = {"type": "t.read", "params": {"file": id_of(ana)}}

    assert post(ana, "/jobs", asked).status_code == 202
    assert post(operator, "/jobs", asked).status_code == 202
    asked["params"] = {"file": str(uuid4())}
    assert post(operator, "/jobs", asked).status_code == 422
    with pytest.raises(InvalidParameters, match="#/params/file: names no file"):
        registry.get("t.read").submit(**asked["params"])
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit):
        call_command("jobs", "submit", "t.read", f"file={uuid4()}", stdout=out, stderr=err)
    assert not out.getvalue()
    registry.get("t.read").submit(file=str(save_upload("a", None, [b"x"]).pk))


def test_a_result_may_be_named_by_whose_job_made_it(
    ana: Client, rui: Client, core: PrivateConnection
) -> None:
    (claimed,) = running(core)
    with open_result(claimed.id, claimed.attempt, "a.txt", db=core) as out:
        out.write(b"x")
    finish(core, [outcome(claimed, files=True)])
    file_id = str(File.objects.get().pk)
    asked = {"type": "t.read", "params": {"file": file_id}}

    Job.objects.update(account=f"user:{User.objects.get(username='ana').pk}")

    assert post(ana, "/jobs", asked).status_code == 202
    assert post(rui, "/jobs", asked).status_code == 422


def test_an_account_has_room_for_so_many_bytes(ana: Client, rui: Client, settings: Any) -> None:
    settings.FILES_MAX_PER_ACCOUNT = 1000
    first = id_of(ana, b"x" * 600)

    refused = problem(upload(ana, b"x" * 500))

    assert (refused["status"], refused["type"]) == (507, "/problems/files-quota")
    assert "delete some" in refused["detail"]
    assert upload(rui, b"x" * 1000).status_code == 201
    assert File.objects.count() == 2
    ana.delete(f"/api/v1/files/{first}")
    assert upload(ana, b"x" * 500).status_code == 201


def test_a_repeated_upload_whose_file_was_deleted_is_told_so(ana: Client) -> None:
    first = upload(ana, b"x" * 9000, Idempotency_Key="k")
    ana.delete(f"/api/v1/files/{first.json()['id']}")

    again = upload(ana, b"x" * 9000, Idempotency_Key="k")
    anew = upload(ana, b"x" * 9000, Idempotency_Key="k2")

    assert (again.status_code, problem(again)["type"]) == (410, "/problems/removed")
    assert first.json()["id"] in problem(again)["detail"]
    assert "another Idempotency-Key" in problem(again)["detail"]
    assert anew.status_code == 201
    assert File.objects.count() == 1


def test_a_repeated_upload_is_answered_with_the_same_file(ana: Client, settings: Any) -> None:
    settings.FILES_MAX_PER_ACCOUNT = 10_000
    first = upload(ana, b"x" * 9000, Idempotency_Key="k")
    again = upload(ana, b"x" * 9000, Idempotency_Key="k")
    other = upload(ana, b"y" * 9000, Idempotency_Key="k")

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.headers["Location"] == f"/api/v1/files/{first.json()['id']}"
    assert (other.status_code, problem(other)["type"]) == (422, "/problems/idempotency-mismatch")
    assert File.objects.count() == 1
    assert FileChunk.objects.count() == 1


@pytest.mark.parametrize(
    ("asked", "status", "given", "at"),
    [
        ("bytes=0-0", 206, slice(0, 1), "bytes 0-0/{size}"),
        ("bytes=10-", 206, slice(10, None), "bytes 10-{last}/{size}"),
        ("bytes=-5", 206, slice(-5, None), "bytes {five}-{last}/{size}"),
        ("bytes=262140-262150", 206, slice(262140, 262151), "bytes 262140-262150/{size}"),
        ("bytes=5-999999999", 206, slice(5, None), "bytes 5-{last}/{size}"),
        ("bytes=262200-", 416, None, "bytes */{size}"),
        ("bytes=-0", 416, None, "bytes */{size}"),
        ("bytes=0-1,5-6", 200, slice(None), None),
        ("bytes=9-3", 200, slice(None), None),
        ("lines=0-1", 200, slice(None), None),
    ],
)
def test_a_range_of_a_file_is_downloaded(
    ana: Client, asked: str, status: int, given: slice | None, at: str | None
) -> None:
    data = bytes(n % 251 for n in range(CHUNK_BYTES + 50))
    path = f"/files/{id_of(ana, data)}/content"

    answer = get(ana, path, Range=asked)

    said = {"size": len(data), "last": len(data) - 1, "five": len(data) - 5}
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == (at and at.format(**said))
    if given is None:
        assert problem(answer)["type"] == "/problems/range"
    else:
        assert answer.getvalue() == data[given]
        assert answer.headers["Content-Length"] == str(len(data[given]))


def test_what_a_caller_has_already_is_not_sent_again(ana: Client) -> None:
    path = f"/api/v1/files/{id_of(ana, b'0123456789')}/content"
    etag = ana.get(path).headers["ETag"]

    for known in (etag, f"W/{etag}", "*", f'"other", W/{etag}'):
        answer = ana.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.headers["ETag"]) == (304, etag)
    assert ana.get(path, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200
    assert ana.get(path, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    head = ana.head(path)
    assert (head.status_code, head.headers["Content-Length"], head.headers["ETag"]) == (200, "10", etag)


def test_uploads_are_listed_and_deleted_on_the_command_line(ana: Client) -> None:
    first, second = id_of(ana, b"x", "one.txt"), id_of(ana, b"x", "two.txt")
    post(ana, "/jobs", {"type": "t.read", "params": {"file": second}})

    def jobs(*words: str) -> tuple[str, int]:
        out = StringIO()
        try:
            call_command("jobs", *words, stdout=out, stderr=out)
        except SystemExit as end:
            return out.getvalue(), int(str(end.code))
        return out.getvalue(), 0

    lines, _ = jobs("files", "--json", "--user", "ana")
    shown, _ = jobs("files")
    deleted, refused = jobs("delete-files", first[-12:]), jobs("delete-files", second)

    assert [json.loads(line)["id"] for line in lines.splitlines()] == [second, first]
    assert "one.txt" in shown
    assert "ana" in shown
    assert deleted == (f"{first[-12:]}  deleted\n", 0)
    assert refused[1] == 1
    assert "is needed by job" in refused[0]


def test_what_a_job_runs_with_is_not_looked_up_again(ana: Client) -> None:
    """Its file may have gone since, and then it is the job that says so."""
    gone = {"file": str(uuid4())}

    assert check(registry.get("t.read").model, gone)[0].model_dump()["file"] == gone["file"]
    with pytest.raises(InvalidParameters):
        check(registry.get("t.read").model, gone, may_name=may_name(None))


def test_an_upload_that_anothers_job_needs_does_not_name_that_job(ana: Client, operator: Client) -> None:
    file_id = id_of(ana)
    made = post(operator, "/jobs", {"type": "t.read", "params": {"file": file_id}}).json()["id"]

    told = problem(ana.delete(f"/api/v1/files/{file_id}"))

    assert (told["status"], told["type"]) == (409, "/problems/file-in-use")
    assert made not in told["detail"] and "a job of another account" in told["detail"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (b'name="other"; filename="a.txt"', "in the field `file`"),
        (b'name="file"; filename="\xe9.txt"', "The multipart body cannot be read: "),
    ],
)
def test_a_part_that_is_not_the_file_is_told_so(ana: Client, part: bytes, words: str) -> None:
    body = b"--B\r\nContent-Disposition: form-data; " + part + b"\r\n\r\nx\r\n--B--\r\n"

    told = problem(ana.post("/api/v1/files", body, content_type="multipart/form-data; boundary=B"))

    assert told["status"] in (400, 422) and words in told["detail"]
    assert "('" not in told["detail"]
    assert not File.objects.exists()
