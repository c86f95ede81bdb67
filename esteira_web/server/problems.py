"""Errors of the API: problem documents (RFC 9457) with stable types.

`type` is `/problems/<code>`, the address of a page that explains the error; the codes are those of `esteira.errors` and
a few for HTTP alone. Clients may rely on `type`, on `status` and on the `code` of each mistake; titles and details are
for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from psycopg.errors import DiskFull, UndefinedColumn, UndefinedTable

from esteira.db import ConnectionLost
from esteira.db.patience import is_held
from esteira.errors import (
    DatabaseAway,
    EsteiraError,
    Held,
    IdempotencyInProgress,
    InvalidParameters,
    Mistake,
    TooManyRequests,
    TooSlow,
    UniqueInProgress,
)
from esteira.values.readable import as_json
from esteira.wording import sentence

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

#: The meaning of each type, and how to correct it.
TITLES: dict[str, str] = {
    "bad-request": "The request cannot be read. Check that the body is JSON and the headers are well-formed.",
    "invalid-request": "Fields of the request are wrong. Each error names a field and its accepted values.",
    "invalid-parameters": "The job type refuses these parameters. Each error names the parameter.",
    "invalid-option": "An option of the submit is wrong. The error names it.",
    "unknown-job-type": "There is no job type of this name. GET /api/v1/job-types lists them.",
    "unknown-queue": "No worker reads this queue.",
    "unauthenticated": "The request carries no valid token or session. Send `Authorization: Bearer …`.",
    "forbidden": "The account or token lacks a right.",
    "csrf": "A request with a session cookie needs the CSRF token in the header X-CSRFToken.",
    "not-found": "There is nothing at this address, or it was removed after its retention.",
    "method-not-allowed": "This address does not support this method. The header Allow lists the supported methods.",
    "unsupported-media-type": "The type, charset or encoding of the body is not supported. Send JSON in UTF-8.",
    "too-large": "The request, or a part of it, is larger than its limit.",
    "too-slow": "The body of the request did not arrive in time. Send it again, without pauses.",
    "too-much-at-once": "Too many bytes of this account are in transfer. Wait until its other requests are answered.",
    "unknown-host": "This installation does not have the requested name or address.",
    "precondition-failed": "A condition of the request, such as If-Match, is not true.",
    "range": "The range is beyond the end of the file. The header Content-Range has the size of the file.",
    "state-conflict": "The job's state does not allow this.",
    "secrets-removed": "The job's secret parameters were removed at its end, so it cannot be retried. Submit it again.",
    "unique-conflict": "Another job has the same unique key.",
    "unique-in-progress": "Another transaction is submitting a job with the same unique key. Try again.",
    "held": "Another transaction has locked a row that the request needs. Nothing changed; retry after Retry-After.",
    "idempotency-mismatch": "The Idempotency-Key was used before with another request.",
    "removed": "The result of the first request with this Idempotency-Key was removed. Nothing was made again; to "
    "make a new one, use another key.",
    "idempotency-in-progress": "The first request with this Idempotency-Key is still being answered. Try again.",
    "search-too-slow": "The database took too long to search the jobs. Narrow the list, or try again.",
    "database-away": "The database does not answer. Nothing was accepted; try again after Retry-After.",
    "not-migrated": "Migrations are pending. Nothing was accepted; try again after Retry-After.",
    "busy": "All request threads are in use. Nothing was done; try again after Retry-After.",
    "too-many-requests": "This account or address has reached its limit. Nothing was done; try again after "
    "Retry-After.",
    "files-full": "The space for files is used up.",
    "files-quota": "The uploads of this account use all of its space. Delete some of them.",
    "file-in-use": "A schedule, or a job that has not ended, needs this file.",
    "not-implemented": "The request needs a part of HTTP that is not supported, such as another transfer coding.",
    "internal": "The server has failed. Give the request id to an operator.",
}
#: The code of an answer without a problem document, by its status.
BY_STATUS = {
    400: "bad-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "too-slow",
    412: "precondition-failed",
    413: "too-large",
    415: "unsupported-media-type",
    416: "range",
    429: "too-many-requests",
    501: "not-implemented",
    503: "database-away",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error, ready to be sent."""

    code: str
    status: int
    detail: str = ""
    errors: Sequence[Mistake] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The text for people."""
        return self.detail or TITLES.get(self.code, "")

    def body(self, request_id: str) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": TITLES.get(self.code, self.code.replace("-", " ").capitalize() + "."),
            "status": self.status,
            "detail": self.shown,
        }
        if self.errors:
            told["errors"] = [one.as_json() for one in self.errors]
        if request_id:
            told["request_id"] = request_id
        return told

    def response(self, request: HttpRequest) -> HttpResponse:
        content = as_json(self.body(getattr(request, "id", "")))
        response = HttpResponse(content, status=self.status, content_type=CONTENT_TYPE)
        for name, value in self.headers.items():
            response[name] = value
        return response


class Told(Exception):
    """Raise it to answer with a problem that is not an error of the core."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def of(error: BaseException) -> Problem | None:
    """Return the problem to send for an error; None for a fault of the server."""
    if isinstance(error, Told):
        return error.problem
    if isinstance(error, EsteiraError):
        again = isinstance(error, IdempotencyInProgress | UniqueInProgress | Held | TooSlow)
        headers = {"Retry-After": "1"} if again else {}
        if isinstance(error, TooManyRequests):
            headers["Retry-After"] = str(error.retry_after_s)
        # An upload has no body of fields, and a conflict is no mistake: only this status is about fields.
        errors = error.mistakes if error.status == 422 else ()
        return Problem(
            code=error.problem or error.code,
            status=error.status,
            detail=str(error),
            errors=errors,
            headers=headers,
        )
    if is_held(error):
        return locked()
    if isinstance(error, ConnectionLost):
        return database_away(full=DiskFull in (type(error), type(error.__cause__)))
    if isinstance(error.__cause__, UndefinedTable | UndefinedColumn):
        return not_migrated()
    return None


def invalid(errors: Sequence[Mistake], *, code: str = "invalid-request", status: int = 422) -> Problem:
    """Return the problem for wrong fields."""
    detail = sentence(InvalidParameters.code, {"mistakes": errors})
    return Problem(code=code, status=status, detail=detail, errors=errors)


def of_status(status: int, detail: str) -> Problem:
    """Return the problem for a request that the server refuses before it reaches Django."""
    return Problem(code=BY_STATUS[status], status=status, detail=detail)


def not_migrated() -> Problem:
    """Return the problem for pending migrations; `/readyz` fails meanwhile, so that balancers send no requests."""
    return Problem(
        code="not-migrated",
        status=503,
        detail=f"The database lacks migrations of this release: run `{settings.MIGRATE_COMMAND}`. Nothing was stored.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def locked() -> Problem:
    """Return the problem for a request that waited too long for a row lock of another transaction."""
    return Problem(
        code=Held.code,
        status=503,
        detail="Another transaction has locked a row that this request needs. Nothing was changed; try again.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def database_away(*, full: bool = False) -> Problem:
    away = (
        "The database does not answer; try again in a few seconds. If the connection broke at the very last "
        "moment, a submit may have been stored: if you send it again with the same Idempotency-Key, it counts once."
    )
    no_room = "The disk of the database is full, so nothing was stored. Try again when it has free space."
    return Problem(
        code=DatabaseAway.code,
        status=DatabaseAway.status,
        detail=no_room if full else away,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
