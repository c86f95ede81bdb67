"""Errors as the API tells them: problem documents (RFC 9457) with stable types.

`type` is `/problems/<code>`, a page that says in a sentence what to do; the codes are those of `esteira.errors` and the
few that only HTTP knows. Clients may rely on `type` and `status`; titles and details are for people.
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
    TooManyRequests,
    TooSlow,
    UniqueInProgress,
)
from esteira.values.readable import as_json

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

#: What each type means, and what to do about it.
TITLES: dict[str, str] = {
    "bad-request": "The request cannot be read. Check that the body is JSON and the headers are well-formed.",
    "invalid-request": "The request's fields are wrong. Each error names the field and what it should be.",
    "invalid-parameters": "The job type refuses these parameters. Each error names the parameter.",
    "invalid-option": "An option of the submit is wrong. The error names it.",
    "unknown-job-type": "There is no job type of this name. GET /api/v1/job-types lists them.",
    "unknown-queue": "No worker would read this queue.",
    "unauthenticated": "The request carries no valid token or session. Send `Authorization: Bearer …`.",
    "forbidden": "The account or token lacks a right.",
    "csrf": "A request with a session cookie needs the CSRF token in the header X-CSRFToken.",
    "not-found": "There is nothing at this address, or it was removed after its retention.",
    "method-not-allowed": "This address does not answer to this method. The header Allow says which it knows.",
    "unsupported-media-type": "The body is of a type, charset or encoding that is not read here. Send JSON in UTF-8.",
    "too-large": "The request, or a part of it, is larger than its limit.",
    "too-slow": "The body of the request did not arrive in time. Send it again, without pauses.",
    "too-much-at-once": "Too much of this account is under way. Wait until its other requests are answered.",
    "unknown-host": "This installation is not known under the name or address that was asked for.",
    "precondition-failed": "A condition of the request, such as If-Match, does not hold.",
    "range": "The file has no such bytes. The header Content-Range says how many it has.",
    "state-conflict": "The job's state does not allow this.",
    "secrets-removed": "The job's secret parameters went when it ended, so it cannot be retried. Submit it again.",
    "unique-conflict": "Another job holds the same unique key.",
    "unique-in-progress": "Another transaction is submitting a job with the same unique key. Try again.",
    "held": "Another transaction holds what the request needs. Nothing was changed; try again after Retry-After.",
    "idempotency-mismatch": "The Idempotency-Key was used before with another request.",
    "removed": "What the first request with this Idempotency-Key made was removed since. Nothing was made again; to "
    "make a new one, use another key.",
    "idempotency-in-progress": "The first request with this Idempotency-Key is still being answered. Try again.",
    "search-too-slow": "The database took too long to search the jobs. Narrow the list, or try again.",
    "database-away": "The database does not answer. Nothing was accepted; try again after Retry-After.",
    "not-migrated": "Migrations are pending. Nothing was accepted; try again after Retry-After.",
    "busy": "All request threads are taken. Nothing was done; try again after Retry-After.",
    "too-many-requests": "This account or address is at a limit of its own. Nothing was done; try again after "
    "Retry-After.",
    "files-full": "The space for files is used up.",
    "files-quota": "The uploads of this account take all the space that it has. Delete some of them.",
    "file-in-use": "A job that has not ended, or a schedule, needs this file.",
    "not-implemented": "The request wants a part of HTTP that is not there, such as a body in another transfer coding.",
    "internal": "Something broke on our side. Quote the request id to an operator.",
}
#: What an answer without a problem document becomes, by its status.
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
    """One error, ready to be told."""

    code: str
    status: int
    detail: str = ""
    errors: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What a person reads."""
        return self.detail or TITLES.get(self.code, "")

    def body(self, request_id: str) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": TITLES.get(self.code, self.code.replace("-", " ").capitalize() + "."),
            "status": self.status,
            "detail": self.shown,
        }
        if self.errors:
            told["errors"] = list(self.errors)
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
    """Raise it to answer with a problem that is no error of the core's."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def of(error: BaseException) -> Problem | None:
    """Return the problem that an error is told as; None for what is nobody's fault but ours."""
    if isinstance(error, Told):
        return error.problem
    if isinstance(error, EsteiraError):
        again = isinstance(error, IdempotencyInProgress | UniqueInProgress | Held | TooSlow)
        headers = {"Retry-After": "1"} if again else {}
        if isinstance(error, TooManyRequests):
            headers["Retry-After"] = str(error.retry_after_s)
        errors = getattr(error, "errors", ())
        return Problem(
            code=error.code, status=error.status, detail=str(error), errors=errors, headers=headers
        )
    if is_held(error):
        return locked()
    if isinstance(error, ConnectionLost):
        return database_away(full=DiskFull in (type(error), type(error.__cause__)))
    if isinstance(error.__cause__, UndefinedTable | UndefinedColumn):
        return not_migrated()
    return None


def invalid(
    errors: Sequence[Mapping[str, Any]], *, code: str = "invalid-request", status: int = 422
) -> Problem:
    """What a request says whose fields are wrong; each error has a `pointer` or a `parameter`, and a `detail`."""
    said = [f"{one.get('pointer', one.get('parameter'))}: {one['detail']}" for one in errors]
    more = f" (and {len(said) - 5} more)" if len(said) > 5 else ""
    return Problem(code=code, status=status, detail="; ".join(said[:5]) + more, errors=errors)


def of_status(status: int, detail: str) -> Problem:
    """What a server says of a request that no application sees."""
    return Problem(code=BY_STATUS[status], status=status, detail=detail)


def not_migrated() -> Problem:
    """What a release says that was started before its migrations ran; `/readyz` keeps requests away meanwhile."""
    return Problem(
        code="not-migrated",
        status=503,
        detail=f"The database is not yet at this release: run `{settings.MIGRATE_COMMAND}`. Nothing was stored.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def locked() -> Problem:
    """What a request says that waited too long for a row which an open transaction holds."""
    return Problem(
        code=Held.code,
        status=503,
        detail="Another transaction holds what this request needs, and has not ended; nothing was changed. Try again.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def database_away(*, full: bool = False) -> Problem:
    away = (
        "The database does not answer; try again in a few seconds. If the connection broke at the very last "
        "moment, a submit may have been stored all the same: sent again with the same Idempotency-Key it counts once."
    )
    no_room = "The disk of the database is full, so nothing was stored. Try again when there is room."
    return Problem(
        code=DatabaseAway.code,
        status=DatabaseAway.status,
        detail=no_room if full else away,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
