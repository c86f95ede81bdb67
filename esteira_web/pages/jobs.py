"""The pages for people: server-rendered, complete without JavaScript. A user with read rights only gets no buttons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from esteira import operate
from esteira.errors import EsteiraError, Held, StateConflict, UniqueConflict
from esteira.files import result_files
from esteira.job_types.registry import registry
from esteira.models import Job, JobEvent
from esteira.models.history import newest_log
from esteira.redact import HIDDEN, shown_params
from esteira.states import ENDED, RETRYABLE, SHOWN_STATES
from esteira.values.readable import as_json
from esteira_web.accounts.roles import Access, Forbidden, Scope, of_session
from esteira_web.read.as_json import file_url, job_for
from esteira_web.read.listing import BadFilter, Filters, page
from esteira_web.server import mount
from esteira_web.server.problems import TITLES

PAGE = 50
#: The newest part of a log that a page shows; the API and the command line have all of it.
LOG_SHOWN = 100_000
EVENTS_SHOWN = 200


@require_safe
def job_list(request: HttpRequest) -> HttpResponse:
    """Show jobs, newest first, filtered by the query of the address."""
    access = _access(request).need(Scope.OWN)
    asked = {name: _asked(request, name) for name in ("state", "type", "queue")}
    filters = Filters(
        states=[asked["state"]] if asked["state"] else [],
        type=asked["type"],
        queue=asked["queue"],
        account=access.only_account,
    )
    found = page(filters, cursor=request.GET.get("cursor", ""), limit=PAGE)
    older, newer = (to and _address(asked, cursor=to) for to in (found.next, found.prev))
    return _render(
        request,
        access,
        "esteira_web/jobs.html",
        jobs=found.items,
        sees=access.may(Scope.PAYLOADS),
        asked=asked,
        filtered=any(asked.values()),
        tabs=[("", "all", _address(asked, state=""))]
        + [(s, s, _address(asked, state=s)) for s in SHOWN_STATES],
        types=registry.names(),
        queues=registry.queues(),
        older=older,
        newer=newer,
        first=_address(asked) if request.GET.get("cursor") else "",
        told=found.told,
        onward=(older if found.older else newer) if found.told else "",
        onward_is_older=found.older,
    )


@require_safe
def job_detail(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Show one job: its facts, progress, error, result and files."""
    access = _access(request).need(Scope.OWN)
    job = job_for(access, job_id)
    sees = access.reads(job)
    ended = job.state in ENDED
    events, logs = _events(job), newest_log(job, LOG_SHOWN + 1) if sees else []
    params = shown_params(job.type, job.params) if sees else {}
    return _render(
        request,
        access,
        "esteira_web/job.html",
        job=job,
        sees=sees,
        params=_pretty(params) if params else "",
        hidden=HIDDEN in params.values(),
        result=_pretty(job.result) if sees and job.result is not None else "",
        files=[(file, file_url(file)) for file in result_files(job.pk)] if sees else [],
        events=events[-EVENTS_SHOWN:],
        more_events=len(events) > EVENTS_SHOWN,
        logs=logs,
        log_is_cut=sum(len(text) for _, text in logs) > LOG_SHOWN,
        log_shown=f"{LOG_SHOWN:,}",
        may_cancel=not ended and access.cancels(job),
        may_force=job.state == "running" and job.cancel_requested_at and access.may(Scope.OPERATE),
        may_retry=job.state in RETRYABLE and not job.forgot_secrets and access.may(Scope.OPERATE),
    )


@require_POST
def cancel_job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    force = "force" in request.POST
    access = _access(request).need(Scope.OPERATE if force else Scope.SUBMIT)
    if not access.cancels(job_for(access, job_id)):
        raise Forbidden(Scope.OPERATE)

    def work() -> str:
        if operate.cancel(job_id, by=access.by, force=force) == "cancelled":
            return "Cancelled."
        return "Its process is being ended." if force else "Stop requested. The job stops at its next check."

    return _act(request, job_id, work)


@require_POST
def retry_job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    access = _access(request).need(Scope.OPERATE)

    def work() -> str:
        operate.retry(job_id, by=access.by)
        return "Sent back to its queue."

    return _act(request, job_id, work)


@require_safe
def problem_type(request: HttpRequest, code: str) -> HttpResponse:
    """Explain an error type; the `type` of API errors links to this page."""
    if code not in TITLES:
        raise Http404
    return _render(request, _access(request), "esteira_web/problem_type.html", code=code, title=TITLES[code])


def _act(request: HttpRequest, job_id: UUID, work: Callable[[], str]) -> HttpResponse:
    """Do the action of a button and return to the job; a conflict becomes a message there, not an error page."""
    try:
        messages.success(request, work())
    except (StateConflict, UniqueConflict, Held) as conflict:
        messages.error(request, f"Nothing was changed: {_sentence(conflict)}")
    return redirect("esteira-job", job_id=job_id)


def _asked(request: HttpRequest, name: str) -> str:
    """Return a filter; the form of the page sends an empty text if there is none."""
    given = request.GET.getlist(name)
    if len(given) > 1:
        raise BadFilter(name, "given-several-times", count=len(given))
    if given and given[0].isspace():
        raise BadFilter(name, "only-spaces-in-filter")
    return given[0].strip() if given else ""


def _access(request: HttpRequest) -> Access:
    access = of_session(request.user)
    if access is None:  # the middleware redirects users without a session to the login
        raise Http404
    return access


def _render(request: HttpRequest, access: Access, template: str, **context: Any) -> HttpResponse:
    common = {
        "access": access,
        "flower_url": settings.ESTEIRA_FLOWER_URL,
        "manage": settings.ESTEIRA_MANAGE_COMMAND,
        "staff": getattr(request.user, "is_staff", False),
    }
    return render(request, template, {**common, **context})


def _address(asked: dict[str, str], **changed: str) -> str:
    query = {name: value for name, value in {**asked, **changed}.items() if value}
    return f"{mount.root()}?{urlencode(query)}" if query else mount.root()


def _pretty(value: Any) -> str:
    return as_json(value, indent=2)


def _events(job: Job) -> list[JobEvent]:
    return list(JobEvent.objects.filter(job=job).order_by("-id")[: EVENTS_SHOWN + 1])[::-1]


def _sentence(error: EsteiraError) -> str:
    return str(error)[:500]
