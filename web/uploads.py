"""Uploads: one file as multipart/form-data (field `file`), or the bytes themselves with `?name=`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError

from esteira.errors import TooLarge
from esteira.files import CHUNK_BYTES, MAX_BYTES, save_upload
from esteira.models import File
from web.problems import Problem, Told

#: What curl says about bytes that it knows nothing about.
SAYS_NOTHING = "application/x-www-form-urlencoded"


def receive_file(request: HttpRequest, name: str) -> File:
    """Store the uploaded file; raises TooLarge, FilesFull, or Told for a request without one file."""
    if request.content_type == "multipart/form-data":
        return _save_part(request, name)
    if not name:
        raise _refused("name", "is required: POST /api/v1/files?name=photo.jpg, or send multipart/form-data.")
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BYTES:
        raise TooLarge("file", f"{MAX_BYTES // 1024**2} MiB")
    content_type = request.content_type if request.content_type != SAYS_NOTHING else None
    return save_upload(name, content_type, _pieces(request))


def _save_part(request: HttpRequest, name: str) -> File:
    try:
        uploaded = [one for _, files in request.FILES.lists() for one in files]
    except (MultiPartParserError, BadRequest) as error:
        raise Told(
            Problem(code="bad-request", status=400, detail=f"The multipart body cannot be read: {error}")
        ) from None
    if len(uploaded) != 1:
        raise _refused("file", f"send exactly one file a request, not {len(uploaded)}.")
    file = uploaded[0]
    chunks: Iterable[bytes] = file.chunks(CHUNK_BYTES)
    return save_upload(name or file.name or "", file.content_type, chunks)


def _pieces(request: HttpRequest) -> Iterator[bytes]:
    while piece := request.read(CHUNK_BYTES):
        yield piece


def _refused(parameter: str, detail: str) -> Told:
    errors = [{"parameter": parameter, "detail": detail}]
    return Told(Problem(code="invalid-request", status=422, detail=f"{parameter}: {detail}", errors=errors))
