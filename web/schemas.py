"""What the API takes and gives, as OpenAPI shows it. Unknown fields of a request are refused; clients ignore ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import AwareDatetime, ConfigDict, Field

from esteira.bounds import BATCH, PAGE

MAX_BATCH = BATCH.most
MAX_PAGE = PAGE.most


class Request(Schema):
    """Base of what is taken."""

    model_config = ConfigDict(extra="forbid")


class SubmitOptions(Request):
    """How to run a job; what is left out is the job type's choice."""

    queue: str | None = None
    priority: str | None = Field(default=None, description="high, normal or low")
    delay: float | None = Field(default=None, description="Run no sooner than this many seconds from now.")
    run_at: AwareDatetime | None = Field(
        default=None, description="Run no sooner than this moment; not with delay."
    )
    expires_in: float | None = Field(
        default=None, description="Do not start later than this many seconds from now."
    )
    unique: str | None = Field(
        default=None, description="While a job with this key waits or runs, no second one is made."
    )
    on_conflict: str = Field(
        default="return", description="When the key is held: return that job, or error (409)."
    )


class SubmitJob(Request):
    """A request to run a job type once."""

    type: str = Field(description="The job type's name, as in GET /api/v1/job-types.")
    params: dict[str, Any] = Field(default_factory=dict, description="As the job type's schema says.")
    options: SubmitOptions = SubmitOptions()


class SubmitJobs(Request):
    """Up to 1,000 requests; all are accepted, or none."""

    jobs: Annotated[list[SubmitJob], Field(min_length=1)]


class CancelJob(Request):
    """How to cancel."""

    force: bool = Field(
        False, description="End the job's process if it does not stop by itself; operators only."
    )


class Progress(Schema):
    done: float
    total: float | None
    text: str | None


class JobError(Schema):
    kind: str = Field(
        description="exception, timeout, retry, given up, parameters, result, unwritable, lost, refused; broken if it "
        "cannot be read"
    )
    type: str
    message: str | None
    traceback: str | None = None


class JobLine(Schema):
    """A job in a list."""

    id: str
    type: str
    state: Literal[
        "scheduled", "queued", "retrying", "running", "succeeded", "failed", "dead", "cancelled", "expired"
    ]
    queue: str
    priority: str
    try_number: int = Field(description="Failures so far + 1.")
    tries: int = Field(description="How many tries it has in all.")
    attempt: int = Field(description="Rises with every start, also after a lost process.")
    progress: Progress | None
    error: JobError | None
    cancel_requested: bool
    submitted_by: str
    schedule: str | None
    created_at: str
    run_at: str
    expires_at: str | None
    started_at: str | None
    finished_at: str | None
    broken: list[str] = Field(
        description="Stored fields that cannot be shown as they are; empty unless somebody wrote the row by hand."
    )


class JobBody(JobLine):
    """A job. What it was given and gave back is null for who may not read it; secrets are stars, and go at its end."""

    params: dict[str, Any] | None
    result: Any
    unique: str | None
    deduplicated: bool | None = Field(
        default=None, description="Whether an existing job stands in; only after a submit."
    )


class JobPage(Schema):
    """Newest first; `next` and `prev` are cursors, as in the Link header."""

    items: list[JobLine]
    next: str | None
    prev: str | None


class Accepted(Schema):
    id: str
    deduplicated: bool


class AcceptedJobs(Schema):
    """In the order of the request."""

    jobs: list[Accepted]


class FileBody(Schema):
    """A stored file; an upload's id is what a parameter of format esteira-file takes."""

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    created_at: str
    url: str | None = Field(default=None, description="Where a result file is read.")


class Files(Schema):
    items: list[FileBody]


class TypeBody(Schema):
    """A job type; `schema` is the JSON Schema (2020-12) of its parameters."""

    name: str
    title: str
    help: str
    queue: str
    priority: str
    tries: int
    timeout_s: float
    schedule: str | None
    params_schema: dict[str, Any] = Field(alias="schema")


class Types(Schema):
    items: list[TypeBody]


class ScheduleBody(Schema):
    """When to submit what. What it submits and why it fails is null without the right payloads:read."""

    name: str
    type: str
    when: str = Field(description="In words.")
    overlap: Literal["allow", "skip", "queue"]
    missed: Literal["skip", "once", "all"]
    grace_s: float
    enabled: bool
    origin: Literal["code", "database", "gone"] = Field(
        description="Declared in code, an operator's own, or declared by no code any more."
    )
    last_tick_at: str
    failing: bool = Field(description="Whether it makes no jobs although it is enabled; `error` says why.")
    failures: int = Field(description="How often its ticks could not be written since they last could.")
    error: str | None
    error_at: str | None
    retry_at: str | None = Field(description="When a schedule that fails is tried again.")
    params: dict[str, Any] | None


class Schedules(Schema):
    items: list[ScheduleBody]


class ProblemBody(Schema):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = None
    request_id: str | None = None
