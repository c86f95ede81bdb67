"""From the body of a submit to accepted jobs: one statement for good ones, a closer look only when one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import transaction

from esteira.errors import EsteiraError, NotFound, TooLarge, UniqueConflict
from esteira.idempotency import Answer, once
from esteira.models import Job
from esteira.params import check
from esteira.registry import SubmitRequest, Submitted, registry
from esteira.submit import submit, unique_key
from web.access import Access
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
    access.need_type(body.type)
    try:
        accepted = submit([_request(body)], by=access.by, account=access.account)[0]
    except EsteiraError as error:
        raise _pointed(_without_others(access, error), "#") from None
    job = jobs().get(pk=accepted.id)
    if not access.sees(job):
        raise _held_by_another(body)
    return {
        "location": job_url(accepted.id),
        "body": {**job_body(job, access), "deduplicated": accepted.deduplicated},
    }


def submit_all(access: Access, bodies: Sequence[SubmitJob]) -> Answer:
    """Accept all jobs or none."""
    if len(bodies) > MAX_BATCH:
        raise TooLarge("jobs", f"{MAX_BATCH:,} in one request")
    for body in bodies:
        access.need_type(body.type)
    read = 0

    def requests() -> Iterator[SubmitRequest]:
        nonlocal read
        for body in bodies:
            read += 1
            yield _request(body)

    try:
        with transaction.atomic():
            accepted = submit(requests(), by=access.by, account=access.account)
            _refuse_others(access, bodies, accepted)
    except EsteiraError as error:
        # Requests are checked in their order, so the last one that was read is the one that was refused.
        raise _pointed(
            _without_others(access, error), f"#/jobs/{read - 1}", _more_errors(bodies, read)
        ) from None
    return {"body": {"jobs": [_said(one) for one in accepted]}}


def with_key(
    access: Access, given: str | None, request: bytes, work: Callable[[], Answer]
) -> tuple[Answer, bool]:
    """Do the work, once if the request carries an Idempotency-Key; True says that the answer is a repeated one."""
    if given is None:
        return work(), False
    if not _KEY.fullmatch(given):
        raise BadKey
    key = given[1:-1] if given.startswith('"') else given
    answer, replayed = once(access.key, key, request, work)
    if replayed and access.only_account is not None and "id" in answer["body"]:
        _refuse_what_they_may_not_see_any_more(access, UUID(answer["body"]["id"]))
    return answer, replayed


def _refuse_what_they_may_not_see_any_more(access: Access, job_id: UUID) -> None:
    """Rights may have gone since the first answer; an answer stays if retention has removed its job."""
    if Job.objects.filter(pk=job_id).exclude(account=access.account, account__isnull=False).exists():
        raise NotFound("job", job_id)


def _refuse_others(access: Access, bodies: Sequence[SubmitJob], accepted: Sequence[Submitted]) -> None:
    """Refuse a batch in which another account's job stands in for one of its own: they may not know that job."""
    stand_ins = [one.id for one in accepted if one.deduplicated]
    if access.only_account is None or not stand_ins:
        return
    own = set(Job.objects.filter(pk__in=stand_ins, account=access.account).values_list("pk", flat=True))
    for one, body in zip(accepted, bodies, strict=True):
        if one.deduplicated and one.id not in own:
            raise _held_by_another(body)


def _without_others(access: Access, error: EsteiraError) -> EsteiraError:
    """Leave out of an error the id of a job that they may not see."""
    if not isinstance(error, UniqueConflict) or error.job_id is None or access.only_account is None:
        return error
    if Job.objects.filter(pk=str(error.job_id), account=access.account).exists():
        return error
    return UniqueConflict(error.key)


def _held_by_another(body: SubmitJob) -> UniqueConflict:
    key = body.options.unique
    if key is None:
        kind = registry.get(body.type)
        key = (unique_key(kind, check(kind.model, body.params)[0]) or "").split(":", 1)[-1]
    return UniqueConflict(key)


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


def _more_errors(bodies: Sequence[SubmitJob], start: int) -> Iterator[dict[str, Any]]:
    """Find what else is wrong, so that a caller mends all at once."""
    for n, body in enumerate(bodies[start:], start):
        try:
            check(registry.get(body.type).model, body.params)
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
