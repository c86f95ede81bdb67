"""Rows as JSON: jobs, files, job types and schedules as the API returns them. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.db.models import QuerySet

from esteira.errors import NotFound
from esteira.job_types.registry import JobType, registry
from esteira.job_types.schedule import Cadence
from esteira.models import ClockTimestamp, File, Job, Schedule
from esteira.redact import shown_params
from esteira.values import readable
from esteira_web.accounts.roles import Access, Scope
from esteira_web.read.new_job import NewJob
from esteira_web.server import mount

#: A job with the fields that showing it needs.
Shown = Job | NewJob


def jobs_url() -> str:
    return f"{mount.root()}api/v1/jobs"


def uploads_url() -> str:
    return f"{mount.root()}api/v1/files"


def jobs() -> QuerySet[Job]:
    """Return jobs with what showing them needs: the schedule's name."""
    return Job.objects.select_related("schedule")


def job_for(access: Access, job_id: UUID) -> Job:
    """Return a job that the caller may see; raises NotFound, with the same text if the job is another account's."""
    job = jobs().filter(pk=job_id).first()
    if job is None or not access.sees(job):
        raise NotFound("job", job_id)
    return job


def job_url(job_id: UUID) -> str:
    return f"{jobs_url()}/{job_id}"


def job_line(job: Shown, access: Access) -> dict[str, Any]:
    """Return a job without the fields that may be large."""
    sees = access.reads(job)
    return {
        "id": str(job.pk),
        "type": job.type,
        "state": job.shown_state,
        "queue": job.queue,
        "priority": job.priority_name,
        "tries": job.tries,
        "max_tries": job.max_tries,
        "attempt": job.attempt,
        "progress": _progress(job, sees),
        "error": _error(job, sees),
        "cancel_requested": job.cancel_requested_at is not None,
        "submitted_by": job.submitted_by,
        "schedule": job.schedule.name if job.schedule else None,
        "created_at": moment(job.created_at),
        "run_at": moment(job.run_at),
        "expires_at": moment(job.expires_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "broken": job.broken,
    }


def job_body(job: Shown, access: Access) -> dict[str, Any]:
    """Return all fields of a job that this caller may see."""
    sees = access.reads(job)
    line = job_line(job, access)
    if sees and (error := readable.error(job.error)):
        line["error"]["traceback"] = str(error.get("traceback") or "") or None
    key = job.unique_key.removeprefix(f"{job.type}:") if job.unique_key else None
    return {
        **line,
        "params": shown_params(job.type, job.params) if sees else None,
        "result": job.result if sees else None,
        "unique": key if sees else None,
    }


def file_body(file: File) -> dict[str, Any]:
    return {
        "id": str(file.pk),
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "sha256": file.sha256,
        "created_at": moment(file.created_at),
        "url": file_url(file),
    }


def upload_body(file: File) -> dict[str, Any]:
    """Return an upload with its account, which is empty if the upload came from the command line or from Python."""
    return {**file_body(file), "account": file.account}


def file_url(file: File) -> str:
    if file.job_id is None:
        return f"{uploads_url()}/{file.pk}/content"
    return f"{job_url(file.job_id)}/files/{quote(file.name, safe='')}"


def type_body(job_type: JobType) -> dict[str, Any]:
    return {
        "name": job_type.name,
        "title": job_type.title,
        "help": job_type.help,
        "queue": job_type.queue,
        "priority": job_type.priority,
        "max_tries": job_type.max_tries,
        "timeout_s": job_type.timeout_s,
        "schedule": job_type.schedule.words() if job_type.schedule else None,
        "schema": job_type.schema(),
    }


def schedules() -> QuerySet[Schedule]:
    """Return schedules in the order of their names, with the database's clock."""
    return Schedule.objects.annotate(db_now=ClockTimestamp()).order_by("name")


def schedule_body(schedule: Schedule, access: Access) -> dict[str, Any]:
    """Return all fields of a schedule that this caller may see."""
    sees = access.may(Scope.PAYLOADS)
    trouble = schedule.trouble(registry.names())
    return {
        "name": schedule.name,
        "type": schedule.type,
        "when": Cadence(cron=schedule.cron, tz=schedule.tz, every_s=schedule.every_s).shown(),
        "overlap": schedule.overlap,
        "missed": schedule.missed,
        "grace_s": schedule.grace_s,
        "enabled": schedule.enabled,
        "origin": schedule.origin,
        "last_tick_at": moment(schedule.last_tick_at),
        "failing": bool(trouble),
        "failures": schedule.failures,
        "error": (trouble or None) if sees else None,
        "error_at": moment(schedule.error_at),
        "retry_at": moment(schedule.retry_at),
        "params": shown_params(schedule.type, schedule.params) if sees else None,
    }


def moment(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None


def _progress(job: Shown, sees: bool) -> dict[str, Any] | None:
    done = readable.number(job.progress_done)
    if done is None:
        return None
    return {
        "done": done,
        "total": readable.number(job.progress_total),
        "text": job.progress_text if sees else None,
    }


def _error(job: Shown, sees: bool) -> dict[str, Any] | None:
    error = readable.error(job.error)
    if error is None:
        return None
    return {
        "kind": str(error.get("kind", "")),
        "type": str(error.get("type", "")),
        "message": str(error.get("message", "")) if sees else None,
    }
