"""Stored files as answers: streamed, and always as a download, because a browser must not run a stranger's content."""

from __future__ import annotations

import re

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header

from esteira.files import chunks_of
from esteira.models import File
from esteira_web.server.middleware import is_head
from esteira_web.server.problems import Told, worded

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def download(request: HttpRequest, file: File) -> HttpResponseBase:
    """Stream a file, or one range of it; the answer is 304 if the caller has the file already (If-None-Match)."""
    etag = f'"{file.sha256}"'
    known = get_conditional_response(request, etag=etag)
    if known is not None:
        known["ETag"] = etag
        return known
    part = _part(request, file.size, etag)
    start, stop = part or (0, file.size)
    response = StreamingHttpResponse(chunks_of(file, start=start, stop=stop), content_type=file.content_type)
    if part:
        response.status_code = 206
        response["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    response["Content-Length"] = str(stop - start)
    response["Content-Disposition"] = content_disposition_header(True, file.name) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = etag
    return response


def _part(request: HttpRequest, size: int, etag: str) -> tuple[int, int] | None:
    """Return the requested range, its end excluded; None for the whole file, which is also sent for several ranges.

    Raises Told for a range beyond the end of the file.
    """
    asked = _ONE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if asked is None or is_head(request) or request.headers.get("If-Range", etag) != etag:
        return None
    first, last = asked.groups()
    if not first and not last:
        return None
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        headers = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
        said = {"size": size, "range": asked.group()}
        raise Told(worded("range-beyond-end", code="range", status=416, headers=headers, **said))
    return start, stop
