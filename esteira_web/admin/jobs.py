"""Jobs in the admin: find them by state, type, queue, time or id; see all fields; cancel and retry them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from esteira import operate
from esteira.errors import EsteiraError
from esteira.files import result_files
from esteira.models import Job
from esteira.models.history import newest_log
from esteira.redact import shown_params
from esteira.values import readable
from esteira_web.admin.found import MOST_LISTED, JobList, QueueFilter, StateFilter, TypeFilter
from esteira_web.admin.readonly import ReadOnly, Tally, moment, pretty, table, who

#: The time limit of an action: if another transaction locks many jobs, waiting for each would hold a thread of web.
MOST_SECONDS = 10.0
MOST_EVENTS = 200
LOG_TAIL = 64 * 1024


@admin.register(Job)
class JobAdmin(ReadOnly):
    """The list offers no sorting by other columns and no counts per filter: both would read the whole table."""

    list_display = (
        "short_id",
        "type",
        "shown",
        "queue",
        "priority_name",
        "tries",
        "created",
        "started",
        "ended",
    )
    list_filter = (StateFilter, TypeFilter, QueueFilter, "created_at")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    ordering = ("-created_at", "-id")
    search_fields = ("id",)
    search_help_text = "A whole id, or a part of a job type's name"
    actions = ("cancel", "cancel_by_force", "retry")
    about = (
        "id",
        "type",
        "shown",
        "queue",
        "priority_name",
        "tries",
        "submitted_by",
        "schedule",
    )
    payload = ("given", "unique_key", "progress", "outcome", "trouble", "files_table", "log")
    times = ("created", "runs", "expires", "claimed", "started", "ended", "lease", "held")
    fence = (
        "attempt",
        "suspicion",
        "solo",
        "worker",
        "cancel_by",
        "cancel_force",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return Job.objects.defer("params", "result", "error")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobList]:
        return JobList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        """Return all jobs: `JobList` does the search."""
        return queryset, False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        parts: list[Any] = [(None, {"fields": self.about})]
        if self.has_payload_permission(request):
            parts.append(("Parameters and outcome", {"fields": self.payload}))
        parts.append(("Times", {"fields": self.times}))
        parts.append(("Attempts", {"fields": self.fence}))
        if self.has_payload_permission(request):  # events contain error messages
            parts.append(("Events", {"fields": ("events_table",)}))
        return parts

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*self.about, *self.payload, *self.times, *self.fence, "events_table"]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("esteira.change_job"))

    def has_payload_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("esteira.view_joblog"))

    # --- Actions ------------------------------------------------------------------------------------------------------

    @admin.action(description="Cancel waiting jobs; request that running jobs stop", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._cancel(request, queryset, force=False)

    @admin.action(description="Cancel by force: end the processes of running jobs", permissions=["operate"])
    def cancel_by_force(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._cancel(request, queryset, force=True)

    @admin.action(
        description="Retry: send failed, dead, cancelled or expired jobs back", permissions=["operate"]
    )
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        def act(job_id: UUID) -> str:
            operate.retry(job_id, by=who(request))
            return "sent back to the queue"

        self._each(request, queryset, act)

    def _cancel(self, request: HttpRequest, queryset: QuerySet[Job], *, force: bool) -> None:
        def act(job_id: UUID) -> str:
            state = operate.cancel(job_id, by=who(request), force=force)
            return "cancelled" if state == "cancelled" else "asked to stop"

        self._each(request, queryset, act)

    def _each(self, request: HttpRequest, queryset: QuerySet[Job], act: Callable[[UUID], str]) -> None:
        tally, tried, until = Tally(), 0, time.monotonic() + MOST_SECONDS
        chosen = list(queryset.values_list("pk", flat=True)[: MOST_LISTED + 1])
        for job_id in chosen[:MOST_LISTED]:
            if time.monotonic() > until:
                break
            try:
                tally.add(act(job_id))
            except EsteiraError as error:
                tally.refused.append(error)
            tried += 1
        tally.tell(self, request)
        if tried < len(chosen):
            self.message_user(
                request, f"Only the first {tried:,} were tried; choose the rest again.", "warning"
            )

    # --- Columns and fields -------------------------------------------------------------------------------------------

    @admin.display(description="id")
    def short_id(self, job: Job) -> SafeString:
        return format_html("<code>{}</code>", str(job.pk)[-12:])

    @admin.display(description="state")
    def shown(self, job: Job) -> str:
        return f"{job.shown_state}, broken: {', '.join(job.broken)}" if job.broken else job.shown_state

    @admin.display(description="priority")
    def priority_name(self, job: Job) -> str:
        return job.priority_name

    @admin.display(description="tries")
    def tries(self, job: Job) -> str:
        return f"{job.tries} of {job.max_tries}"

    @admin.display(description="submitted")
    def created(self, job: Job) -> str:
        return moment(job.created_at)

    @admin.display(description="runs from")
    def runs(self, job: Job) -> str:
        return moment(job.run_at)

    @admin.display(description="expires")
    def expires(self, job: Job) -> str:
        return moment(job.expires_at)

    @admin.display(description="claimed")
    def claimed(self, job: Job) -> str:
        return moment(job.claimed_at)

    @admin.display(description="started")
    def started(self, job: Job) -> str:
        return moment(job.started_at)

    @admin.display(description="ended")
    def ended(self, job: Job) -> str:
        return moment(job.finished_at)

    @admin.display(description="lease until")
    def lease(self, job: Job) -> str:
        return moment(job.lease_until)

    @admin.display(description="held until")
    def held(self, job: Job) -> str:
        return moment(job.hold_until)

    @admin.display(description="parameters")
    def given(self, job: Job) -> SafeString:
        return pretty(shown_params(job.type, job.params))

    @admin.display(description="progress")
    def progress(self, job: Job) -> str:
        if job.progress_done is None:
            return "–"
        of = f" of {job.progress_total:g}" if job.progress_total is not None else ""
        return f"{job.progress_text} {job.progress_done:g}{of}".strip()

    @admin.display(description="result")
    def outcome(self, job: Job) -> SafeString | str:
        return "–" if job.result is None else pretty(job.result)

    @admin.display(description="error")
    def trouble(self, job: Job) -> SafeString | str:
        error = readable.error(job.error)
        if error is None:
            return "–"
        head = f"{error.get('type', '')}: {error.get('message', '')}".removeprefix(": ")
        return format_html("<pre>{}\n{}</pre>", head, error.get("traceback") or "")

    @admin.display(description="files")
    def files_table(self, job: Job) -> SafeString | str:
        rows = [(f.name, f"{f.size:,} bytes", f.content_type, f.sha256) for f in result_files(job.pk)]
        return table(("name", "size", "type", "SHA-256"), rows)

    @admin.display(description="log")
    def log(self, job: Job) -> SafeString | str:
        text = "".join(piece for _, piece in newest_log(job, LOG_TAIL + 1))
        cut = f"[the last {LOG_TAIL // 1024} KiB]\n" if len(text) > LOG_TAIL else ""
        return format_html("<pre>{}{}</pre>", cut, text[-LOG_TAIL:]) if text else "–"

    @admin.display(description="events")
    def events_table(self, job: Job) -> SafeString | str:
        events = list(job.events.all()[:MOST_EVENTS])
        rows = [(moment(e.at), e.kind, e.attempt, e.by or e.worker, pretty(e.detail)) for e in events]
        return table(("at", "event", "attempt", "by", "detail"), rows)
