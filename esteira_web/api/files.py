"""The files in the API: the uploads of an account, and the result files of jobs."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Path

from esteira.errors import NotFound
from esteira.files import result_file, result_files
from esteira.files.uploads import delete_upload, uploads
from esteira.idempotency import Answer
from esteira.models import File
from esteira_web.accounts.roles import Access, Forbidden, Scope
from esteira_web.api import requests, schemas
from esteira_web.api.answers import answer, api, caller, linked, reads, told
from esteira_web.api.auth import need
from esteira_web.api.downloads import download
from esteira_web.api.openapi import FILE_ANSWER, UPLOAD_BODY
from esteira_web.api.repeats import with_key
from esteira_web.api.statuses import LOOK_ERRORS, OF_A_FILE, READ_ERRORS, REPEATABLE, UPLOAD_ERRORS
from esteira_web.api.uploads import received
from esteira_web.read.as_json import file_body, job_for, upload_body, uploads_url
from esteira_web.read.listing import cut


@reads(
    "/jobs/{id:job_id}/files",
    response={200: schemas.Files, **LOOK_ERRORS},
    auth=need(Scope.OWN),
    tags=["files"],
)
def list_files(request: HttpRequest, job_id: Path[UUID]) -> HttpResponse:
    """List a job's result files, at most 1,000, by name; a job has them once it has succeeded."""
    _for_files(caller(request), job_id)
    return answer({"items": [file_body(file) for file in result_files(job_id)]})


@reads(
    "/jobs/{id:job_id}/files/{name}",
    response={304: None, 412: schemas.ProblemBody, 416: schemas.ProblemBody, **LOOK_ERRORS},
    auth=need(Scope.OWN),
    tags=["files"],
    openapi_extra={**OF_A_FILE, **FILE_ANSWER},
)
def get_file(request: HttpRequest, job_id: Path[UUID], name: str) -> HttpResponseBase:
    """Download a result file."""
    _for_files(caller(request), job_id)
    return download(request, result_file(job_id, name))


@api.post(
    "/files",
    response={201: schemas.FileBody, **UPLOAD_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["files"],
    openapi_extra={**UPLOAD_BODY, **REPEATABLE},
)
def upload_file(request: HttpRequest, name: str = "") -> HttpResponse:
    """Upload a file of at most 100 MiB, as multipart field `file` or raw with `name`; job parameters refer to its id.

    `Idempotency-Key` makes repeats safe: a repeat gets the first answer, and nothing is stored again.
    """
    access = caller(request)
    with received(request, access, name) as arriving:

        def work() -> Answer:
            file = arriving.finish()
            return {"body": file_body(file), "location": f"{uploads_url()}/{file.pk}"}

        asked = f"POST {uploads_url()}\n{arriving.described}".encode()
        said, replayed = with_key(access, request.headers.get("Idempotency-Key"), asked, work)
        return told(said, replayed, status=201)


@reads("/files", response={200: schemas.UploadPage, **READ_ERRORS}, auth=need(Scope.SUBMIT), tags=["files"])
def list_uploads(
    request: HttpRequest, limit: requests.Limit = 50, cursor: requests.Cursor = ""
) -> HttpResponse:
    """List your uploads, newest first; an operator sees the uploads of all accounts."""
    found = cut(uploads(_whose(request)), cursor=cursor, limit=limit)
    response = answer({"items": [upload_body(file) for file in found.items], **found.cursors})
    return linked(request, response, found.cursors)


@reads(
    "/files/{id:file_id}",
    response={200: schemas.UploadBody, **LOOK_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["files"],
)
def get_upload(request: HttpRequest, file_id: Path[UUID]) -> HttpResponse:
    """Get one of your uploads."""
    return answer(upload_body(_upload(request, file_id)))


@reads(
    "/files/{id:file_id}/content",
    response={304: None, 412: schemas.ProblemBody, 416: schemas.ProblemBody, **LOOK_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["files"],
    openapi_extra={**OF_A_FILE, **FILE_ANSWER},
)
def get_upload_content(request: HttpRequest, file_id: Path[UUID]) -> HttpResponseBase:
    """Download one of your uploads, or a range of it."""
    return download(request, _upload(request, file_id))


@api.delete(
    "/files/{id:file_id}",
    response={204: None, **LOOK_ERRORS, 409: schemas.ProblemBody},
    auth=need(Scope.SUBMIT),
    tags=["files"],
)
def delete_file(request: HttpRequest, file_id: Path[UUID]) -> HttpResponse:
    """Delete one of your uploads; 409 while a schedule, or a job that has not ended, refers to it."""
    delete_upload(file_id, _whose(request))
    return HttpResponse(status=204)


def _whose(request: HttpRequest) -> str | None:
    """Return the account whose uploads a caller may see; None means all accounts."""
    access = caller(request)
    return None if access.may(Scope.OPERATE) else access.account


def _upload(request: HttpRequest, file_id: UUID) -> File:
    file = uploads(_whose(request)).filter(pk=file_id).first()
    if file is None:
        raise NotFound("file", file_id)
    return file


def _for_files(access: Access, job_id: UUID) -> None:
    if not access.reads(job_for(access, job_id)):
        raise Forbidden(Scope.PAYLOADS)
