"""Stored files as answers: streamed, always saved and never shown, because their content is somebody else's."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header, parse_etags

from esteira.files import chunks_of
from esteira.models import File


def download(request: HttpRequest, file: File) -> HttpResponseBase:
    """Stream a file; a caller who has it already is told so (If-None-Match)."""
    etag = f'"{file.sha256}"'
    response: HttpResponse | StreamingHttpResponse
    if etag in parse_etags(request.headers.get("If-None-Match", "")):
        response = HttpResponseNotModified()
    else:
        response = StreamingHttpResponse(chunks_of(file), content_type=file.content_type)
        response["Content-Length"] = str(file.size)
        response["Content-Disposition"] = content_disposition_header(True, file.name) or "attachment"
        response["X-Content-Type-Options"] = "nosniff"
        response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response["ETag"] = etag
    return response
