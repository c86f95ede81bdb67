"""The requests of the API, as OpenAPI shows them: bodies, and the filters of lists. Unknown fields are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, StrictBool

from esteira.errors import InvalidOption
from esteira.job_types.registry import PRIORITIES
from esteira.states import SHOWN_STATES
from esteira.values.bounds import (
    BATCH,
    DELAY,
    EXPIRES_IN,
    PAGE,
    QUEUE_NAME,
    TYPE_NAME,
    UNIQUE,
    Span,
    moment,
    shown,
)

T = TypeVar("T")
MAX_BATCH = BATCH.most
#: A text that PostgreSQL stores: without NUL.
STORABLE: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}


class Request(Schema):
    """The base class of request bodies."""

    model_config = ConfigDict(extra="forbid")


def _is_a_date(value: Any) -> Any:
    """Refuse numbers, in quotes or not: pydantic would read them as seconds since 1970, which no schema describes."""
    if not isinstance(value, str) or "-" not in value[1:]:
        raise ValueError(NO_DATE)
    if re.search(r"\d \d\d:?\d\d$", value):
        raise ValueError(f"{NO_DATE}; in an address, + is a space: write %2B for it, or Z")
    return value


NO_DATE = "must be a date and time with a time zone, such as 2026-01-31T09:00:00Z"
Moment = Annotated[AwareDatetime, BeforeValidator(_is_a_date)]


def _known_states(given: str) -> str:
    """Check a filter of one state, or of several separated by commas; an empty text between commas is refused."""
    if unknown := sorted(set(given.split(",")) - set(SHOWN_STATES)):
        raise ValueError(f"must be one of {', '.join(SHOWN_STATES)}, not {shown(unknown[0])}.")
    return given


States = Annotated[str, AfterValidator(_known_states), Field(json_schema_extra={"enum": list(SHOWN_STATES)})]


def _told(check: Callable[[str, Any], T], value: Any) -> T:
    """Check a value with the core, and raise its error in the form that pydantic expects."""
    try:
        return check("", value)
    except InvalidOption as error:
        raise ValueError(error.errors[0]["detail"]) from None


def _within(check: Callable[[str, T], T]) -> AfterValidator:
    """Keep a filter within the bounds of stored values; a filter that is left out is None."""
    return AfterValidator(lambda value: None if value is None else _told(check, value))


TypeFilter = Annotated[
    Annotated[str, Field(min_length=TYPE_NAME.least, max_length=TYPE_NAME.most)] | None,
    _within(TYPE_NAME.check),
]
QueueFilter = Annotated[
    Annotated[str, Field(min_length=QUEUE_NAME.least, max_length=QUEUE_NAME.most)] | None,
    _within(QUEUE_NAME.check),
]
MomentFilter = Annotated[
    Moment | None, _within(moment), Field(description="From 1970 to ten years from now, with a time zone.")
]
Limit = Annotated[
    int, Field(ge=PAGE.least, le=PAGE.most), BeforeValidator(lambda text: _told(PAGE.typed, text))
]
Cursor = Annotated[
    str,
    Field(
        description="The `next` or `prev` of an earlier answer; other values are refused.",
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
    params: dict[str, Any] = Field(
        default_factory=dict, description="The parameters, as the job type's schema defines them."
    )
    options: SubmitOptions = SubmitOptions()


class SubmitJobs(Request):
    """Up to 1,000 requests; all are accepted, or none."""

    jobs: list[SubmitJob] = Field(min_length=1, json_schema_extra={"maxItems": MAX_BATCH})


class CancelJob(Request):
    """Options of a cancellation."""

    force: StrictBool = Field(
        False, description="End the job's process if it does not stop by itself; operators only."
    )
