"""The answers of the API: JSON, problem documents for errors, repeated answers under an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, RawPostDataException
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from esteira.db import ConnectionLost
from esteira.errors import EsteiraError, Mistake
from esteira.idempotency import Answer
from esteira.job_types.checking import of_pydantic
from esteira.values.readable import as_json
from esteira_web.accounts.roles import Access
from esteira_web.api.reading import JsonParser, known_only, noted, read_json, refuse_mistakes
from esteira_web.api.repeats import with_key
from esteira_web.api.submit import MAX_ERRORS, also_wrong
from esteira_web.read.as_json import BATCH, JOBS
from esteira_web.server import problems
from esteira_web.server.problems import Problem, Told

api = NinjaAPI(
    title="Esteira",
    version="1",
    description="Background jobs that survive anything. Errors are problem documents (RFC 9457); ids are UUIDs; "
    "times are RFC 3339 in UTC. Send `Authorization: Bearer …`, and an `Idempotency-Key` with requests that must take "
    "effect once.",
    openapi_url=None,
    docs_url=None,
    urls_namespace="api",
    parser=JsonParser(),
)
api.add_decorator(known_only, mode="view")
api.add_decorator(refuse_mistakes, mode="operation")


def reads(path: str, **how: Any) -> Callable[[Any], Any]:
    """Declare an operation that reads: the answer to HEAD has the headers of the answer to GET."""
    return api.api_operation(["GET", "HEAD"], path, by_alias=True, **how)


def caller(request: HttpRequest) -> Access:
    """Return the rights of the caller, which `esteira_web.api.auth` has stored in the request."""
    access = request.auth  # type: ignore[attr-defined]
    assert isinstance(access, Access)
    return access


def answer(body: Mapping[str, Any], status: int = 200) -> HttpResponse:
    return HttpResponse(as_json(body), status=status, content_type="application/json")


def accept(request: HttpRequest, work: Callable[[Access], Answer]) -> HttpResponse:
    """Do the work and answer 202; a repeat with the same Idempotency-Key gets the first answer."""
    access = caller(request)
    asked = f"{request.method} {request.path}\n".encode() + request.body
    said, replayed = with_key(access, request.headers.get("Idempotency-Key"), asked, lambda: work(access))
    response = told(said, replayed, status=202)
    if "location" in said:
        response["Retry-After"] = "1"
    return response


def told(said: Answer, replayed: bool, *, status: int) -> HttpResponse:
    """Answer with the result of the work, done now or before with the same Idempotency-Key."""
    response = answer(said["body"], status=status)
    if "location" in said:
        response["Location"] = said["location"]
    if replayed:
        response["Idempotency-Replayed"] = "true"
    return response


def linked(request: HttpRequest, response: HttpResponse, cursors: Mapping[str, str | None]) -> HttpResponse:
    """Add the other pages of a list in the header Link."""
    if links := [_link(request, rel, cursor) for rel, cursor in cursors.items() if cursor]:
        response["Link"] = ", ".join(links)
    return response


def _link(request: HttpRequest, rel: str, cursor: str) -> str:
    """Return a member of the header Link: this list with another cursor."""
    query = [(name, value) for name, values in request.GET.lists() for value in values if name != "cursor"]
    return f'<{request.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="{rel}"'


@csrf_exempt  # this view changes nothing, and a wrong address must be answered with 404, not with a CSRF error
def not_found(request: HttpRequest) -> HttpResponse:
    """Answer for any other address below /api/."""
    return Problem(code="not-found", status=404).response(request)


def _tell(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    problem = problems.of(error) if isinstance(error, Exception) else None
    if problem is None:
        raise error
    return problem.response(request)


for kind in (EsteiraError, Told, *ConnectionLost):
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


@api.exception_handler(RawPostDataException)
def _not_json(request: HttpRequest, error: RawPostDataException) -> HttpResponse:
    """Answer 415: the CSRF check has already read the body, which is a form with files."""
    return Problem(code="unsupported-media-type", status=415).response(request)


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    if isinstance(error.__cause__, Told):  # the parser has refused the body
        return error.__cause__.problem.response(request)
    code = problems.BY_STATUS.get(error.status_code, "bad-request")
    return Problem(code=code, status=error.status_code).response(request)


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """Answer with all mistakes at once, including those that only the core finds."""
    errors = [*noted(request)]
    said = {one.parameter for one in errors}
    errors += [one for one in map(_field_error, error.errors) if one.parameter not in said]
    if request.path in (JOBS, BATCH) and request.body:
        refused = {tuple(one["loc"][2:]) for one in error.errors if one["loc"][0] == "body"}
        also = also_wrong(
            caller(request), read_json(request.body)[0], refused, in_a_batch=request.path == BATCH
        )
        errors += islice(also, MAX_ERRORS)
    return problems.invalid(errors).response(request)


def _field_error(error: Mapping[str, Any]) -> Mistake:
    """Turn pydantic's error into an error of the API: body fields by pointer, query parameters by name."""
    source, *loc = error["loc"]
    if source != "body":
        return of_pydantic(error, unknown="unknown-field", parameter=str(loc[0] if loc else source))
    return of_pydantic(error, unknown="unknown-field", at=tuple(loc[1:]))
