"""The answers of the API, as OpenAPI shows them. Within a version fields are only added; clients ignore new ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from esteira_web.server.problems import TITLES

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
A_JOB: dict[str, Any] = {
    "id": "01a22658-1474-7199-9517-8323e614fd11",
    "type": "demo.greet",
    "state": "succeeded",
    "queue": "default",
    "priority": "normal",
    "tries": 1,
    "max_tries": 4,
    "attempt": 1,
    "progress": None,
    "error": None,
    "cancel_requested": False,
    "submitted_by": "ana / reports",
    "schedule": None,
    "created_at": "2026-01-31T09:00:00.000Z",
    "run_at": "2026-01-31T09:00:00.000Z",
    "expires_at": None,
    "started_at": "2026-01-31T09:00:00.012Z",
    "finished_at": "2026-01-31T09:00:00.040Z",
    "broken": [],
    "params": {"name": "Ana"},
    "result": {"text": "Hello Ana"},
    "unique": None,
}
A_PROBLEM: dict[str, Any] = {
    "type": "/problems/invalid-parameters",
    "title": TITLES["invalid-parameters"],
    "status": 422,
    "detail": "#/params/nme: is not a parameter of this job type; remove it or check its spelling.",
    "errors": [
        {
            "pointer": "#/params/nme",
            "code": "unknown-parameter",
            "detail": "is not a parameter of this job type; remove it or check its spelling.",
        }
    ],
    "request_id": "0ef0ff38af67430f862a3f0c1335838a",
}


class Progress(Schema):
    done: float
    total: float | None
    text: str | None


class JobError(Schema):
    kind: str = Field(
        description="exception, timeout, retry, given up, parameters, result, unwritable, lost, refused; broken if the "
        "stored error cannot be read"
    )
    type: str
    message: str | None
    traceback: str | None = None


class JobLine(Schema):
    """A job in a list."""

    id: Id
    type: str
    state: Literal[
        "scheduled", "queued", "retrying", "running", "succeeded", "failed", "dead", "cancelled", "expired"
    ]
    queue: str
    priority: Literal["high", "normal", "low"]
    tries: int = Field(
        description="How many tries the job has used: the attempts that failed, and one that runs or succeeded."
    )
    max_tries: int = Field(description="How many tries the job has in all.")
    attempt: int = Field(description="Increased by every claim, also after a lost process.")
    progress: Progress | None
    error: JobError | None
    cancel_requested: bool
    submitted_by: str
    schedule: str | None
    created_at: Time
    run_at: Time
    expires_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    broken: list[str] = Field(
        description="Stored fields that cannot be shown as they are; empty unless the row was written by hand."
    )


class JobBody(JobLine):
    """A job. `params` and `result` are null without the right to read them; secrets are stars until their removal."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_JOB]})

    params: dict[str, Any] | None
    result: Any
    unique: str | None
    deduplicated: bool | None = Field(
        default=None,
        description="Whether an existing job was returned instead of a new one; only after a submit.",
    )


class JobPage(Schema):
    """Newest first; `next` and `prev` are cursors, as in the Link header."""

    items: list[JobLine]
    next: str | None
    prev: str | None
    searched_to: str | None = Field(
        description="Null if the page is complete. Else the search reached its limits first: all matching jobs up to "
        "this moment are here, maybe none; the jobs beyond it were not searched, and `next` (or `prev`) continues "
        "there."
    )


class Accepted(Schema):
    id: Id
    deduplicated: bool


class AcceptedJobs(Schema):
    """In the order of the request."""

    jobs: list[Accepted]


class FileBody(Schema):
    """A stored file; the id of an upload is the value of a parameter with format esteira-file."""

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    created_at: str
    url: str = Field(description="The address of its content.")


class Files(Schema):
    items: list[FileBody]


class UploadBody(FileBody):
    account: str = Field(
        description="The account of the upload, such as user:1; empty for one from the command line or Python."
    )


class UploadPage(Schema):
    """Newest first; `next` and `prev` are cursors, as in the header Link."""

    items: list[UploadBody]
    next: str | None
    prev: str | None


class TypeBody(Schema):
    """A job type; `schema` is the JSON Schema (2020-12) of its parameters."""

    name: str
    title: str
    help: str
    queue: str
    priority: str
    max_tries: int = Field(description="How many tries a job of this type has in all.")
    timeout_s: float
    schedule: str | None
    params_schema: dict[str, Any] = Field(alias="schema")


class Types(Schema):
    items: list[TypeBody]


class ScheduleBody(Schema):
    """A job to submit at certain times. `params` and `error` are null without the right payloads:read."""

    name: str
    type: str
    when: str = Field(description="The times, in words.")
    overlap: Literal["allow", "skip", "queue"]
    missed: Literal["skip", "once", "all"]
    grace_s: float
    enabled: bool
    origin: Literal["code", "database", "gone"] = Field(
        description="Declared in code, created by an operator, or no longer declared in code."
    )
    last_tick_at: Time
    failing: bool = Field(
        description="Whether it makes no jobs although it is enabled; `error` is the reason."
    )
    failures: int = Field(description="How often its ticks could not be written since the last success.")
    error: str | None
    error_at: Time | None
    retry_at: Time | None = Field(description="When a schedule that fails is tried again.")
    params: dict[str, Any] | None


class Schedules(Schema):
    items: list[ScheduleBody]


class FieldError(Schema):
    """One mistake; `pointer` or `parameter` is its place."""

    pointer: str | None = Field(default=None, description="A JSON Pointer into the body (RFC 6901).")
    parameter: str | None = Field(default=None, description="The name of a query parameter.")
    code: str = Field(description="The stable name of the kind of mistake, for programs.")
    detail: str = Field(description="The mistake and its remedy, for people.")


class ProblemBody(Schema):
    """An error (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_PROBLEM]})

    type: str = Field(json_schema_extra={"enum": [f"/problems/{code}" for code in TITLES]})
    title: str
    status: int = Field(json_schema_extra={"minimum": 400, "maximum": 599})
    detail: str
    errors: list[FieldError] | None = Field(default=None, description="All mistakes in the request.")
    request_id: str | None = Field(
        default=None, description="As in X-Request-ID, to search the server's log."
    )
