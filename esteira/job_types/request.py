"""What somebody may ask for when they submit a job: the one place of each option's name, bounds and meaning.

Every door makes its form of the options from `OPTIONS`: `.options(…)` in Python, the body of `POST /api/v1/jobs`, and
the words of `jobs submit`. A new option is a field here, and a line in `esteira.submit.choices_of`, which stores it.
Pure: importable before Django.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

from esteira.errors import InvalidOption
from esteira.values.bounds import DELAY, EXPIRES_IN, MOMENT, UNIQUE, Moment, OneOf, Span, Text

PRIORITIES = {"high": 3, "normal": 6, "low": 9}
PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
#: None: what is allowed is known to the running process only, so `esteira.submit` checks it.
Allowed = Span | Text | OneOf | Moment | None


def _may(allowed: Allowed, meaning: str) -> dict[str, Any]:
    return {"allowed": allowed, "meaning": meaning}


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """One request to run a job type. An option that is None is the type's choice; durations: seconds or timedelta."""

    type: str
    params: Mapping[str, Any]
    queue: str | None = field(default=None, metadata=_may(None, "run in another queue than the type's own"))
    priority: str | None = field(
        default=None,
        metadata=_may(OneOf(names=tuple(PRIORITIES)), "which of the waiting jobs of a queue goes first"),
    )
    delay: float | timedelta | None = field(
        default=None, metadata=_may(DELAY, "run no sooner than this from now")
    )
    run_at: datetime | None = field(
        default=None, metadata=_may(MOMENT, "run no sooner than this moment; not with delay")
    )
    expires_in: float | timedelta | None = field(
        default=None, metadata=_may(EXPIRES_IN, "do not start later than this from now")
    )
    unique: str | None = field(
        default=None,
        metadata=_may(UNIQUE, "while a job of this type with this key waits or runs, no second one is made"),
    )
    on_conflict: str = field(
        default="return",
        metadata=_may(OneOf(names=("return", "error")), "when the key is held: return that job, or an error"),
    )

    def options(self) -> dict[str, Any]:
        """Return the options by name, as they are stored; raises InvalidOption for the first mistake."""
        chosen = {option.name: option.of(self) for option in OPTIONS}
        self.refuse_two_starts()
        return chosen

    def checks(self) -> list[Callable[[], object]]:
        """Return the checks of `options` one by one; each raises InvalidOption."""
        return [*(_check(option, self) for option in OPTIONS), self.refuse_two_starts]

    def refuse_two_starts(self) -> None:
        if self.run_at is not None and self.delay is not None:
            raise InvalidOption("run_at", "two-starts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A field of `SubmitRequest` that people may leave out; `default` None leaves the choice to the job type."""

    name: str
    allowed: Allowed
    meaning: str
    default: str | None

    def of(self, request: SubmitRequest) -> Any:
        """Return what a request says of it, as it is stored; raises InvalidOption."""
        value = getattr(request, self.name)
        if value is self.default or self.allowed is None:
            return value
        return self.allowed.check(self.name, value)


def _check(option: Option, request: SubmitRequest) -> Callable[[], object]:
    return lambda: option.of(request)


OPTIONS = tuple(
    Option(name=one.name, default=cast("str | None", one.default), **one.metadata)
    for one in fields(SubmitRequest)
    if one.metadata
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """Requests with the same type and options: `one` for each of `many` parameters.

    A submit checks the type and the options of such a list once.
    """

    one: SubmitRequest
    many: Iterable[Mapping[str, Any]]

    def __iter__(self) -> Iterator[SubmitRequest]:
        return (replace(self.one, params=params) for params in self.many)


class Submitted(NamedTuple):
    """The answer to a submit; `deduplicated` when a job with the same unique key stands in for this one."""

    id: UUID
    deduplicated: bool = False
