"""How the API speaks: JSON answers, problem documents for whatever goes wrong, repeats under an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from esteira.db import Gone
from esteira.errors import EsteiraError
from esteira.idempotency import Answer
from esteira.readable import as_json
from web import problems
from web.access import Access
from web.problems import Problem, Told
from web.submitting import with_key

api = NinjaAPI(
    title="Esteira",
    version="1",
    description="Background jobs that survive anything. Errors are problem documents (RFC 9457); ids are UUIDs; "
    "times are RFC 3339 in UTC. Send `Authorization: Bearer …`, and an `Idempotency-Key` with what must happen once.",
    openapi_url=None,
    docs_url=None,
    urls_namespace="api",
)
KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeats with the same key and request get the first answer, and nothing happens again.",
}


def caller(request: HttpRequest) -> Access:
    """Return who asks; `web.auth` has put it there."""
    access = request.auth  # type: ignore[attr-defined]
    assert isinstance(access, Access)
    return access


def answer(body: Mapping[str, Any], status: int = 200) -> HttpResponse:
    return HttpResponse(as_json(body), status=status, content_type="application/json")


def once(request: HttpRequest, work: Callable[[Access], Answer]) -> HttpResponse:
    """Do the work and answer 202; a repeat under the same Idempotency-Key gets the first answer."""
    access = caller(request)
    asked = f"{request.method} {request.path}\n".encode() + request.body
    said, replayed = with_key(access, request.headers.get("Idempotency-Key"), asked, lambda: work(access))
    response = told(said, replayed, status=202)
    if "location" in said:
        response["Retry-After"] = "1"
    return response


def told(said: Answer, replayed: bool, *, status: int) -> HttpResponse:
    """Answer with what was done, now or under the same Idempotency-Key before."""
    response = answer(said["body"], status=status)
    if "location" in said:
        response["Location"] = said["location"]
    if replayed:
        response["Idempotency-Replayed"] = "true"
    return response


def linked(request: HttpRequest, response: HttpResponse, cursors: Mapping[str, str | None]) -> HttpResponse:
    """Name the other pages of a list in the header Link."""
    if links := [_link(request, rel, cursor) for rel, cursor in cursors.items() if cursor]:
        response["Link"] = ", ".join(links)
    return response


def _link(request: HttpRequest, rel: str, cursor: str) -> str:
    """Return a member of the header Link: this list with another cursor."""
    query = [(name, value) for name, values in request.GET.lists() for value in values if name != "cursor"]
    return f'<{request.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="{rel}"'


def refuse_unknown_parameters(request: HttpRequest, known: Sequence[str]) -> None:
    errors = [
        {"parameter": n, "detail": f"is not one of {', '.join(known)}."}
        for n in request.GET
        if n not in known
    ]
    if errors:
        raise Told(
            Problem(code="invalid-request", status=422, detail="Unknown query parameters.", errors=errors)
        )


@csrf_exempt  # whoever asks for nothing is told so, whatever they bring along
def not_found(request: HttpRequest) -> HttpResponse:
    """Answer for any other address below /api/."""
    return Problem(code="not-found", status=404).response(request)


def _tell(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    problem = problems.of(error) if isinstance(error, Exception) else None
    if problem is None:
        raise error
    return problem.response(request)


for kind in (EsteiraError, Told, *Gone):
    api.add_exception_handler(kind, _tell)


@api.exception_handler(AuthenticationError)
def _unauthenticated(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return Problem(code="unauthenticated", status=401, headers={"WWW-Authenticate": "Bearer"}).response(
        request
    )


@api.exception_handler(RequestDataTooBig)
def _too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    limit = f"The body is larger than the limit of {settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 1024**2} MiB."
    return Problem(code="too-large", status=413, detail=limit).response(request)


@api.exception_handler(Http404)
def _nothing_there(request: HttpRequest, error: Http404) -> HttpResponse:
    return not_found(request)


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    code = problems.BY_STATUS.get(error.status_code, "bad-request")
    detail = "The body is not JSON." if error.status_code == 400 else ""
    return Problem(code=code, status=error.status_code, detail=detail).response(request)


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    errors = [_field_error(one) for one in error.errors]
    detail = "; ".join(f"{next(iter(one.values()))}: {one['detail']}" for one in errors[:5])
    return Problem(code="invalid-request", status=422, detail=detail, errors=errors).response(request)


def _field_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Turn pydantic's words into ours: body fields by pointer, query parameters by name."""
    source, *loc = error["loc"]
    sentence = {
        "extra_forbidden": "is not a field of this request; remove it or check its spelling.",
        "missing": "is required.",
    }.get(error["type"], f"{error['msg']}.")
    if source != "body":
        return {"parameter": str(loc[-1] if loc else source), "detail": sentence}
    path = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in loc[1:])
    return {"pointer": f"#{path}", "detail": sentence}
