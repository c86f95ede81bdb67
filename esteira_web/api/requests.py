"""The requests of the API, as OpenAPI shows them: bodies, and the filters of lists. Unknown fields are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from ninja import Schema
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    create_model,
)

from esteira.errors import InvalidOption, Mistake
from esteira.job_types.parameters import refusal
from esteira.job_types.request import OPTIONS, Allowed, Option
from esteira.states import SHOWN_STATES
from esteira.values import bounds
from esteira.values.bounds import BATCH, MOMENT, PAGE, QUEUE_NAME, TYPE_NAME, OneOf, Span, Text, shown

T = TypeVar("T")
R = TypeVar("R", bound="Request")
MAX_BATCH = BATCH.most
#: A text that PostgreSQL stores: without NUL.
STORABLE: dict[str, Any] = {"type": "string", "pattern": "^[^\\u0000]*$"}
NULL: dict[str, Any] = {"type": "null"}


class Request(Schema):
    """The base class of request bodies."""

    model_config = ConfigDict(extra="forbid")


def _is_a_date(value: Any) -> Any:
    """Refuse numbers, in quotes or not: pydantic would read them as seconds since 1970, which no schema describes."""
    if not isinstance(value, str) or "-" not in value[1:]:
        raise refusal(Mistake(code="not-a-moment-of-the-api"))
    if re.search(r"\d \d\d:?\d\d$", value):
        raise refusal(Mistake(code="not-a-moment-in-address"))
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_a_date)]


def _known_states(given: str) -> str:
    """Check a filter of one state, or of several separated by commas; an empty text between commas is refused."""
    if unknown := sorted(set(given.split(",")) - set(SHOWN_STATES)):
        allowed = {"allowed": SHOWN_STATES, "given": shown(unknown[0])}
        raise refusal(Mistake(code="not-one-of", values=allowed))
    return given


States = Annotated[str, AfterValidator(_known_states), Field(json_schema_extra={"enum": list(SHOWN_STATES)})]


def _checked(check: Callable[[str, Any], T], value: Any) -> T:
    """Check a value with the core, and raise its error in the form that pydantic expects."""
    try:
        return check("value", value)
    except InvalidOption as error:
        raise refusal(error.mistakes[0]) from None


def _within(check: Callable[[str, T], T]) -> AfterValidator:
    """Keep a filter within the bounds of stored values; a filter that is left out is None."""
    return AfterValidator(lambda value: None if value is None else _checked(check, value))


TypeFilter = Annotated[
    Annotated[str, Field(min_length=TYPE_NAME.least, max_length=TYPE_NAME.most)] | None,
    _within(TYPE_NAME.check),
]
QueueFilter = Annotated[
    Annotated[str, Field(min_length=QUEUE_NAME.least, max_length=QUEUE_NAME.most)] | None,
    _within(QUEUE_NAME.check),
]
MomentFilter = Annotated[
    Moment | None, _within(MOMENT.check), Field(description=f"{MOMENT.words().capitalize()}.")
]
Limit = Annotated[
    int, Field(ge=PAGE.least, le=PAGE.most), BeforeValidator(lambda text: _checked(PAGE.typed, text))
]
Cursor = Annotated[
    str,
    Field(
        description="The `next` or `prev` of an earlier answer; other values are refused.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},
    ),
]


def _json(allowed: Allowed) -> tuple[Any, dict[str, Any], str]:
    """Return an option's type and schema in JSON, and a sentence about its bounds.

    The schema shows the bounds, and the core checks them with its own errors.
    """
    match allowed:
        case Span(least=least, most=most):
            number = {"type": "number", "minimum": least, "maximum": most}
            return Annotated[float, Field(strict=True)], number, f" A number of seconds {allowed.words()}."
        case bounds.Moment():
            return Moment, {"type": "string", "format": "date-time"}, f" {allowed.words().capitalize()}."
        case Text(least=least, most=most):
            return str, {**STORABLE, "minLength": least, "maxLength": most}, ""
        case OneOf(names=names):
            return str, {"type": "string", "enum": list(names)}, ""
        case None:
            return str, {"type": "string"}, ""


def _field(option: Option) -> tuple[Any, Any]:
    annotation, schema, bounds_said = _json(option.allowed)
    if option.default is None:
        annotation, schema = annotation | None, {"anyOf": [schema, NULL]}
    meaning = f"{option.meaning[0].upper()}{option.meaning[1:]}.{bounds_said}"
    return annotation, Field(default=option.default, description=meaning, json_schema_extra=schema)


def with_options(base: type[R]) -> type[R]:
    """Add a field for each option that the core knows."""
    options: dict[str, Any] = {option.name: _field(option) for option in OPTIONS}
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, __module__=__name__, **options)


@with_options
class SubmitOptions(Request):
    """Options of a job; the job type decides every option that is left out or null."""


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
