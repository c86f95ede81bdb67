"""Turn the body of a submit into accepted jobs; mistakes are searched for only after the core has refused a job."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from django.db import transaction

from esteira.errors import EsteiraError, Mistake, UniqueConflict
from esteira.files.uploads import may_name
from esteira.idempotency import Answer
from esteira.job_types.checking import check
from esteira.job_types.parameters import MayName
from esteira.job_types.registry import registry
from esteira.job_types.request import OPTIONS, SubmitRequest, Submitted
from esteira.job_types.unique_key import unique_key
from esteira.models import Job
from esteira.submit import Known, refusals, submit
from esteira_web.accounts.roles import Access, Scope
from esteira_web.api.requests import SubmitJob
from esteira_web.read.as_json import job_body, job_url, jobs
from esteira_web.server.problems import Told, invalid

#: The largest number of mistakes in one answer.
MAX_ERRORS = 100
#: The place of a field in a body: names and numbers, outermost first.
Place = tuple[Any, ...]


def submit_one(access: Access, body: SubmitJob) -> Answer:
    """Accept one job; return the answer of the API."""
    access.need_type(body.type)
    try:
        accepted = submit([_request(body)], by=access.by, account=access.account, files=files_of(access))[0]
    except EsteiraError as error:
        raise _as_answer(access, _without_others(access, error), [body], in_a_batch=False) from None
    job = jobs().get(pk=accepted.id)
    if not access.sees(job):
        raise _held_by_another(body)
    return {
        "location": job_url(accepted.id),
        "body": {**job_body(job, access), "deduplicated": accepted.deduplicated},
    }


def submit_all(access: Access, bodies: Sequence[SubmitJob]) -> Answer:
    """Accept all jobs or none."""
    for body in bodies:
        access.need_type(body.type)
    try:
        with transaction.atomic():
            accepted = submit(
                map(_request, bodies), by=access.by, account=access.account, files=files_of(access)
            )
            _refuse_others(access, bodies, accepted)
    except EsteiraError as error:
        raise _as_answer(access, _without_others(access, error), bodies, in_a_batch=True) from None
    return {"body": {"jobs": [_said(one) for one in accepted]}}


def files_of(access: Access) -> MayName:
    """Return the rule for the files that a caller's parameters may name: any for an operator, own ones for others."""
    if access.may(Scope.OPERATE):
        return may_name(None)
    return may_name(access.account)


def _refuse_others(access: Access, bodies: Sequence[SubmitJob], accepted: Sequence[Submitted]) -> None:
    """Refuse a batch if another account's job would replace one of its jobs: the caller may not see that job."""
    stand_ins = [one.id for one in accepted if one.deduplicated]
    if access.only_account is None or not stand_ins:
        return
    own = set(Job.objects.filter(pk__in=stand_ins, account=access.account).values_list("pk", flat=True))
    for one, body in zip(accepted, bodies, strict=True):
        if one.deduplicated and one.id not in own:
            raise _held_by_another(body)


def _without_others(access: Access, error: EsteiraError) -> EsteiraError:
    """Remove the id of a job from an error if the caller may not see that job."""
    if not isinstance(error, UniqueConflict) or error.job_id is None or access.only_account is None:
        return error
    if Job.objects.filter(pk=str(error.job_id), account=access.account).exists():
        return error
    return UniqueConflict(error.key)


def _held_by_another(body: SubmitJob) -> UniqueConflict:
    key = _request(body).unique
    if key is None:
        job_type = registry.get(body.type)
        key = (unique_key(job_type, check(job_type.model, body.params)[0]) or "").split(":", 1)[-1]
    return UniqueConflict(key)


def _request(body: SubmitJob) -> SubmitRequest:
    return SubmitRequest(type=body.type, params=body.params, **dict(body.options))


def _said(accepted: Submitted) -> dict[str, Any]:
    return {"id": str(accepted.id), "deduplicated": accepted.deduplicated}


def also_wrong(
    access: Access, body: Any, refused: Collection[Place], *, in_a_batch: bool
) -> Iterator[Mistake]:
    """Find further mistakes that the core would refuse in a body; the fields at these places are refused already."""
    known = _known_to(access)
    if not in_a_batch:
        yield from _also_wrong(known, (), body, refused)
    elif isinstance(body, dict) and isinstance(body.get("jobs"), list):
        for n, one in enumerate(body["jobs"]):
            inside = {place[2:] for place in refused if place[:2] == ("jobs", n)}
            yield from _also_wrong(known, ("jobs", n), one, inside)


def _known_to(access: Access) -> Known:
    return Known(files=files_of(access))


def _also_wrong(known: Known, base: Place, job: Any, refused: Collection[Place]) -> Iterator[Mistake]:
    if not isinstance(job, dict):
        return
    tops = {place[0] for place in refused if place}
    bad_options = {place[1] for place in refused if place[:1] == ("options",) and len(place) > 1}
    given = job.get("options")
    good = {option.name for option in OPTIONS} - bad_options
    options = {name: one for name, one in given.items() if name in good} if isinstance(given, dict) else {}
    kept = {name: job[name] for name in ("type", "params") if name in job and name not in tops}
    whole = {"type": "", "params": {}, **kept, "options": options}
    for mistake in _mistakes(base, refusals(_request(SubmitJob.model_validate(whole)), known)):
        if mistake.at[len(base)] not in tops - {"options"}:
            yield mistake


def _as_answer(
    access: Access, error: EsteiraError, bodies: Sequence[SubmitJob], *, in_a_batch: bool
) -> Exception:
    """Turn an error about a request into one with all its mistakes; return other errors unchanged."""
    if error.status not in (413, 422):
        return error
    known = _known_to(access)
    found = (
        (("jobs", n) if in_a_batch else (), one)
        for n, body in enumerate(bodies)
        for one in refusals(_request(body), known)
    )
    some = list(islice(found, MAX_ERRORS))
    codes = {one.code: one.status for _, one in some}
    code, status = codes.popitem() if len(codes) == 1 else ("invalid-request", 422)
    return Told(invalid([m for base, one in some for m in _mistakes(base, [one])], code=code, status=status))


def _mistakes(base: Place, errors: Iterable[EsteiraError]) -> Iterator[Mistake]:
    """Yield mistakes with their places in the body, where options are in an object of their own."""
    for error in errors:
        for mistake in error.mistakes:
            inside = () if mistake.at[0] in ("params", "type") else ("options",)
            yield replace(mistake, at=(*base, *inside, *mistake.at))
