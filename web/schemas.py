"""What the API takes and gives, as OpenAPI shows it. Unknown fields of a request are refused; clients ignore ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, StrictBool

from esteira.bounds import BATCH, DELAY, EXPIRES_IN, PAGE, QUEUE_NAME, TYPE_NAME, UNIQUE, Span, moment, shown
from esteira.errors import InvalidOption
from esteira.registry import PRIORITIES
from esteira.states import SHOWN_STATES
from web.problems import TITLES

T = TypeVar("T")
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
A_JOB: dict[str, Any] = {
    "id": "01a22658-1474-7199-9517-8323e614fd11",
    "type": "demo.greet",
    "state": "succeeded",
    "queue": "default",
    "priority": "normal",
    "try_number": 1,
    "tries": 4,
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
            "detail": "is not a parameter of this job type; remove it or check its spelling.",
            "type": "extra_forbidden",
        }
    ],
    "request_id": "0ef0ff38af67430f862a3f0c1335838a",
}

#: A text that PostgreSQL stores: without NUL.
STORABLE: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
MAX_BATCH = BATCH.most
MAX_PAGE = PAGE.most


class Request(Schema):
    """Base of what is taken."""

    model_config = ConfigDict(extra="forbid")


def _is_a_date(value: Any) -> Any:
    """A number, in quotes or not, would be read as seconds since 1970, which no schema says."""
    if not isinstance(value, str) or "-" not in value[1:]:
        raise ValueError(NO_DATE)
    return value


NO_DATE = "must be a date and time with a time zone, such as 2026-01-31T09:00:00Z"
Moment = Annotated[AwareDatetime, BeforeValidator(_is_a_date)]


def _known_states(given: str) -> str:
    """A filter names one state, or several between commas."""
    if unknown := sorted({one for one in given.split(",") if one} - set(SHOWN_STATES)):
        raise ValueError(f"must be one of {', '.join(SHOWN_STATES)}, not {shown(unknown[0])}.")
    return given


States = Annotated[str, AfterValidator(_known_states), Field(json_schema_extra={"enum": list(SHOWN_STATES)})]


def _within(check: Callable[[str, T], T]) -> AfterValidator:
    """Keep a filter within the bounds of what is stored; an empty text is no filter."""

    def checked(value: T) -> T:
        try:
            return check("", value) if value else value
        except InvalidOption as error:
            raise ValueError(error.errors[0]["detail"]) from None

    return AfterValidator(checked)


TypeFilter = Annotated[str, Field(max_length=TYPE_NAME.most), _within(TYPE_NAME.check)]
QueueFilter = Annotated[str, Field(max_length=QUEUE_NAME.most), _within(QUEUE_NAME.check)]
MomentFilter = Annotated[
    Moment | None, _within(moment), Field(description="From 1970 to ten years from now, with a time zone.")
]
Limit = Annotated[int, Field(ge=PAGE.least, le=PAGE.most)]
Cursor = Annotated[
    str,
    Field(
        description="As `next` or `prev` of an earlier answer; others are refused.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},
    ),
]


def _seconds(span: Span, meaning: str) -> Any:
    """A field of a duration; its bounds are told here and kept by the core, which names them in its own words."""
    return Field(
        default=None,
        strict=True,
        description=f"{meaning} A number of seconds {span.words()}.",
        json_schema_extra={"anyOf": [{"type": "number", "minimum": span.least, "maximum": span.most}, NULL]},
    )


def _one_of(names: Sequence[str], meaning: str, *, default: str | None = None) -> Any:
    one: dict[str, Any] = {"type": "string", "enum": list(names)}
    return Field(
        default=default,
        description=meaning,
        json_schema_extra={"anyOf": [one, NULL]} if default is None else one,
    )


NULL: dict[str, Any] = {"type": "null"}


class SubmitOptions(Request):
    """How to run a job; what is left out, or null, is the job type's choice."""

    queue: str | None = Field(
        default=None, description="One that workers read; GET /api/v1/job-types names them."
    )
    priority: str | None = _one_of(list(PRIORITIES), "Which of the waiting jobs goes first.")
    delay: float | None = _seconds(DELAY, "Run no sooner than this from now.")
    run_at: Moment | None = Field(
        default=None,
        description="Run no sooner than this moment, from 1970 to ten years from now; not with delay.",
    )
    expires_in: float | None = _seconds(EXPIRES_IN, "Do not start later than this from now.")
    unique: str | None = Field(
        default=None,
        description="While a job of this type with this key waits or runs, no second one is made.",
        json_schema_extra={
            "anyOf": [{**STORABLE, "minLength": UNIQUE.least, "maxLength": UNIQUE.most}, NULL]
        },
    )
    on_conflict: str = _one_of(
        ["return", "error"], "When the key is held: return that job, or error (409).", default="return"
    )


class SubmitJob(Request):
    """A request to run a job type once."""

    type: str = Field(description="The job type's name, as in GET /api/v1/job-types.")
    params: dict[str, Any] = Field(default_factory=dict, description="As the job type's schema says.")
    options: SubmitOptions = SubmitOptions()


class SubmitJobs(Request):
    """Up to 1,000 requests; all are accepted, or none."""

    jobs: list[SubmitJob] = Field(min_length=1, json_schema_extra={"maxItems": MAX_BATCH})


class CancelJob(Request):
    """How to cancel."""

    force: StrictBool = Field(
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

    id: Id
    type: str
    state: Literal[
        "scheduled", "queued", "retrying", "running", "succeeded", "failed", "dead", "cancelled", "expired"
    ]
    queue: str
    priority: Literal["high", "normal", "low"]
    try_number: int = Field(description="Failures so far + 1.")
    tries: int = Field(description="How many tries it has in all.")
    attempt: int = Field(description="Rises with every start, also after a lost process.")
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
        description="Stored fields that cannot be shown as they are; empty unless somebody wrote the row by hand."
    )


class JobBody(JobLine):
    """A job. What it was given and gave back is null without the right payloads:read; secrets are stars."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_JOB]})

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
    searched_to: str | None = Field(
        description="Null if the page is whole. Else the search reached its bounds before it was: up to this moment "
        "all that match are here, maybe none; what lies beyond was not looked at, and `next` (or `prev`) goes on there."
    )


class Accepted(Schema):
    id: Id
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
    url: str = Field(description="Where its bytes are read.")


class Files(Schema):
    items: list[FileBody]


class UploadBody(FileBody):
    account: str = Field(
        description="Whose upload it is, as user:1; empty for one from the command line or Python."
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
    last_tick_at: Time
    failing: bool = Field(description="Whether it makes no jobs although it is enabled; `error` says why.")
    failures: int = Field(description="How often its ticks could not be written since they last could.")
    error: str | None
    error_at: Time | None
    retry_at: Time | None = Field(description="When a schedule that fails is tried again.")
    params: dict[str, Any] | None


class Schedules(Schema):
    items: list[ScheduleBody]


class FieldError(Schema):
    """One mistake; `pointer` or `parameter` says where it is."""

    pointer: str | None = Field(default=None, description="A JSON Pointer into the body (RFC 6901).")
    parameter: str | None = Field(default=None, description="A parameter of the address.")
    detail: str = Field(description="What is wrong, and what would be right.")
    type: str | None = Field(default=None, description="The kind of mistake, for programs.")


class ProblemBody(Schema):
    """An error (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_PROBLEM]})

    type: str = Field(json_schema_extra={"enum": [f"/problems/{code}" for code in TITLES]})
    title: str
    status: int = Field(json_schema_extra={"minimum": 400, "maximum": 599})
    detail: str
    errors: list[FieldError] | None = Field(
        default=None, description="All mistakes, of a request that is wrong."
    )
    request_id: str | None = Field(default=None, description="As in X-Request-ID; the server's log has more.")
