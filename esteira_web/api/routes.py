"""JSON API, version 1. Each operation authenticates the caller, reads the request, calls the core and answers.

All operations need a token or a session; errors are problem documents. Changes within v1 only add: clients ignore
fields that they do not know, requests with unknown fields are refused.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response
from ninja import Path
from ninja.params.functions import Query

from esteira import operate
from esteira.errors import Mistake, NotFound
from esteira.idempotency import Answer
from esteira.job_types.registry import registry
from esteira.states import ENDED
from esteira_web.accounts.roles import Access, Forbidden, Scope
from esteira_web.api import files, requests, schemas
from esteira_web.api.answers import accept, answer, api, caller, linked, reads
from esteira_web.api.auth import need
from esteira_web.api.openapi import described
from esteira_web.api.statuses import (
    LOOK_ERRORS,
    READ_ERRORS,
    REPEATABLE,
    STEER_ERRORS,
    SUBMIT_ERRORS,
    UNCHANGED,
)
from esteira_web.api.submit import submit_all, submit_one
from esteira_web.read.as_json import (
    job_body,
    job_for,
    job_line,
    job_url,
    moment,
    schedule_body,
    schedules,
    type_body,
)
from esteira_web.read.listing import Filters, page
from esteira_web.server.problems import Told, invalid

__all__ = ["api", "files"]

ANY_STATE: list[str] = Query([], description="Any of these states; repeat it, or separate them by commas.")


@api.post(
    "/jobs",
    response={202: schemas.JobBody, **SUBMIT_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["jobs"],
    openapi_extra=REPEATABLE,
)
def submit_job(request: HttpRequest, body: requests.SubmitJob) -> HttpResponse:
    """Submit a job. The answer comes after the commit: accepted means stored. `Idempotency-Key` makes repeats safe."""
    return accept(request, lambda access: submit_one(access, body))


@api.post(
    "/jobs/batch",
    response={202: schemas.AcceptedJobs, **SUBMIT_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["jobs"],
    openapi_extra=REPEATABLE,
)
def submit_jobs(request: HttpRequest, body: requests.SubmitJobs) -> HttpResponse:
    """Submit up to 1,000 jobs: all are accepted, or none. `Idempotency-Key` makes repeats safe."""
    if len(body.jobs) > requests.MAX_BATCH:
        mistake = Mistake(code="too-many-jobs", at=("jobs",), values={"most": requests.MAX_BATCH})
        raise Told(invalid([mistake], code="too-large", status=413))
    return accept(request, lambda access: submit_all(access, body.jobs))


@reads("/jobs", response={200: schemas.JobPage, **READ_ERRORS}, auth=need(Scope.OWN), tags=["jobs"])
def list_jobs(
    request: HttpRequest,
    state: list[requests.States] = ANY_STATE,
    type: requests.TypeFilter = None,
    queue: requests.QueueFilter = None,
    created_after: requests.MomentFilter = None,
    created_before: requests.MomentFilter = None,
    limit: requests.Limit = 50,
    cursor: requests.Cursor = "",
) -> HttpResponse:
    """List jobs, newest first. The next page is in the header Link, and as `next`.

    A search has limits: if it could not fill a page, `searched_to` is the moment that it reached; `next` continues it.
    """
    states = [one for part in state for one in part.split(",")]
    access = caller(request)
    filters = Filters(
        states=states,
        type=type or "",
        queue=queue or "",
        created_after=created_after,
        created_before=created_before,
        account=access.only_account,
    )
    found = page(filters, cursor=cursor, limit=limit)
    items = [job_line(job, access) for job in found.items]
    body = {"items": items, **found.cursors, "searched_to": moment(found.searched_to)}
    return linked(request, answer(body), found.cursors)


@reads(
    "/jobs/{id:job_id}",
    response={200: schemas.JobBody, 304: None, **LOOK_ERRORS},
    auth=need(Scope.OWN),
    tags=["jobs"],
    openapi_extra=UNCHANGED,
)
def get_job(request: HttpRequest, job_id: Path[UUID]) -> HttpResponse:
    """Get a job. `ETag` and `If-None-Match` avoid sending it again; `Retry-After` is present until the job ends."""
    job = job_for(caller(request), job_id)
    response = answer(job_body(job, caller(request)))
    response["ETag"] = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    if job.state not in ENDED:
        response["Retry-After"] = "1"
    return get_conditional_response(request, response["ETag"], None, response) or response


@api.post(
    "/jobs/{id:job_id}/cancel",
    response={202: schemas.JobBody, **STEER_ERRORS},
    auth=need(Scope.SUBMIT),
    tags=["jobs"],
    openapi_extra=REPEATABLE,
)
def cancel_job(
    request: HttpRequest, job_id: Path[UUID], how: requests.CancelJob | None = None
) -> HttpResponse:
    """Cancel a job: a waiting one at once, a running one at its next check. `force` ends its process (operators)."""
    force = how is not None and how.force
    if force:
        caller(request).need(Scope.OPERATE)

    def work(access: Access) -> Answer:
        operate.cancel(job_id, by=access.by, force=force)
        return {"body": job_body(job_for(access, job_id), access)}

    _for_cancel(caller(request), job_id)
    return accept(request, work)


@api.post(
    "/jobs/{id:job_id}/retry",
    response={202: schemas.JobBody, **STEER_ERRORS},
    auth=need(Scope.OPERATE),
    tags=["jobs"],
    openapi_extra=REPEATABLE,
)
def retry_job(request: HttpRequest, job_id: Path[UUID]) -> HttpResponse:
    """Send a failed, dead, cancelled or expired job back to its queue, with all its tries."""

    def work(access: Access) -> Answer:
        operate.retry(job_id, by=access.by)
        return {"body": job_body(job_for(access, job_id), access), "location": job_url(job_id)}

    return accept(request, work)


@reads("/job-types", response={200: schemas.Types, **READ_ERRORS}, auth=need(Scope.OWN), tags=["job types"])
def list_types(request: HttpRequest) -> HttpResponse:
    """List the job types with the JSON Schema of their parameters."""
    return answer({"items": [type_body(job_type) for job_type in registry.all()]})


@reads(
    "/job-types/{name}",
    response={200: schemas.TypeBody, **LOOK_ERRORS},
    auth=need(Scope.OWN),
    tags=["job types"],
)
def get_type(request: HttpRequest, name: str) -> HttpResponse:
    """Get one job type."""
    if name not in registry.names():
        raise NotFound("job-type", name)
    return answer(type_body(registry.get(name)))


@reads(
    "/schedules", response={200: schemas.Schedules, **READ_ERRORS}, auth=need(Scope.OWN), tags=["schedules"]
)
def list_schedules(request: HttpRequest) -> HttpResponse:
    """List the schedules: the job type and the times of each, and the errors of those that fail."""
    return answer({"items": [schedule_body(one, caller(request)) for one in schedules()]})


@reads("/openapi.json", auth=need(Scope.OWN), include_in_schema=False)
def openapi(request: HttpRequest) -> HttpResponse:
    """Describe this API, with every job type's parameters."""
    return answer(described(api, registry.all()))


def _for_cancel(access: Access, job_id: UUID) -> None:
    if not access.cancels(job_for(access, job_id)):
        raise Forbidden(Scope.OPERATE)
