"""From the body of a submit to accepted jobs: one statement for good ones, a closer look only when one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from django.db import transaction

from esteira.errors import EsteiraError, TooLarge
from esteira.idempotency import Answer, once
from esteira.params import MayName, check
from esteira.registry import SubmitRequest, Submitted, registry
from esteira.submit import submit
from esteira.uploads import may_name
from web.access import Access, Scope
from web.problems import Problem, Told
from web.schemas import MAX_BATCH, SubmitJob
from web.shapes import job_body, job_url, jobs

MAX_ERRORS = 100
_KEY = re.compile(r'[!#-~][!-~]{0,254}|"[ -~]{1,255}"')


class BadKey(EsteiraError):
    """The header Idempotency-Key must be 1 to 255 printable ASCII characters."""

    code = "bad-request"

    def __init__(self) -> None:
        super().__init__(str(self.__doc__))


def submit_one(access: Access, body: SubmitJob) -> Answer:
    """Accept one job; the answer is what the API says."""
    try:
        accepted = submit([_request(body)], by=access.by, files=files_of(access))[0]
    except EsteiraError as error:
        raise _pointed(error, "#") from None
    job = jobs().get(pk=accepted.id)
    return {
        "location": job_url(accepted.id),
        "body": {**job_body(job, access), "deduplicated": accepted.deduplicated},
    }


def submit_all(access: Access, bodies: Sequence[SubmitJob]) -> Answer:
    """Accept all jobs or none."""
    if len(bodies) > MAX_BATCH:
        raise TooLarge("jobs", f"{MAX_BATCH:,} in one request")
    read, files = 0, files_of(access)

    def requests() -> Iterator[SubmitRequest]:
        nonlocal read
        for body in bodies:
            read += 1
            yield _request(body)

    try:
        with transaction.atomic():
            accepted = submit(requests(), by=access.by, files=files)
    except EsteiraError as error:
        # Requests are checked in their order, so the last one that was read is the one that was refused.
        raise _pointed(error, f"#/jobs/{read - 1}", _more_errors(bodies, read, files)) from None
    return {"body": {"jobs": [_said(one) for one in accepted]}}


def files_of(access: Access) -> MayName:
    """Return what says which files this caller's parameters may name: an operator's any, others their own."""
    if access.may(Scope.OPERATE):
        return may_name(None)
    return may_name(access.account, access.by.split(" / ", 1)[0])


def with_key(
    access: Access, given: str | None, request: bytes, work: Callable[[], Answer]
) -> tuple[Answer, bool]:
    """Do the work, once if the request carries an Idempotency-Key; True says that the answer is a repeated one."""
    if given is None:
        return work(), False
    return once(access.key, key_of(given), request, work)


def key_of(given: str) -> str:
    """Return an Idempotency-Key without its quotes; raises BadKey."""
    if not _KEY.fullmatch(given):
        raise BadKey
    return given[1:-1] if given.startswith('"') else given


def _request(body: SubmitJob) -> SubmitRequest:
    options = body.options
    return SubmitRequest(
        type=body.type,
        params=body.params,
        queue=options.queue,
        priority=options.priority,
        delay_s=options.delay,
        run_at=options.run_at,
        expires_in_s=options.expires_in,
        unique=options.unique,
        on_conflict=options.on_conflict,
    )


def _said(accepted: Submitted) -> dict[str, Any]:
    return {"id": str(accepted.id), "deduplicated": accepted.deduplicated}


def _more_errors(bodies: Sequence[SubmitJob], start: int, files: MayName) -> Iterator[dict[str, Any]]:
    """Find what else is wrong, so that a caller mends all at once."""
    for n, body in enumerate(bodies[start:], start):
        try:
            check(registry.get(body.type).model, body.params, may_name=files)
        except EsteiraError as error:
            yield from _errors(error, f"#/jobs/{n}")


def _pointed(error: EsteiraError, base: str, more: Iterable[dict[str, Any]] = ()) -> Exception:
    """Let an error about a request point into the body; other errors stay as they are."""
    if error.status not in (413, 422):
        return error
    errors = [*_errors(error, base), *islice(more, MAX_ERRORS)]
    return Told(Problem(code=error.code, status=error.status, detail=str(error), errors=errors))


def _errors(error: EsteiraError, base: str) -> list[dict[str, Any]]:
    errors = getattr(error, "errors", None)
    if errors is None:
        field = getattr(error, "field", "type")
        errors = [{"pointer": f"#/{field}", "detail": str(error).removeprefix(f"{field}: ")}]
    return [{**one, "pointer": base + _place(str(one["pointer"]))} for one in errors]


def _place(pointer: str) -> str:
    """Say where a field of a SubmitRequest stands in the body: options are folded into one object there."""
    path = pointer.removeprefix("#")
    return path if path.split("/")[1] in ("params", "type") else f"/options{path}"
