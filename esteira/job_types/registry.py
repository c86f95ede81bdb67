"""Job types and the one place that knows them all.

Pure: importable before Django. Submitting needs the database, so the core installs its submitter when Django is ready
(`install`); before that a submit says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NoReturn, Protocol
from uuid import UUID

from esteira.errors import DeclarationError, InvalidOption, UnknownJobType
from esteira.job_types.checking import check
from esteira.job_types.context import Context, LocalContext
from esteira.job_types.parameters import FILE_FORMAT, Params
from esteira.job_types.schedule import Cadence
from esteira.job_types.secret import hidden_names
from esteira.values.bounds import DELAY

PRIORITIES = {"high": 3, "normal": 6, "low": 9}
PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
DEFAULT_TIMEOUT_S = 600.0
#: A job that ignores its time limit is ended by force this much later.
HARD_AFTER_S = 30.0


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """One request to run a job type; None leaves the choice to the type."""

    type: str
    params: Mapping[str, Any]
    queue: str | None = None
    priority: str | None = None
    delay_s: float | None = None
    run_at: datetime | None = None
    expires_in_s: float | None = None
    unique: str | None = None
    on_conflict: str = "return"


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The answer to a submit; `deduplicated` when a job with the same unique key stands in for this one."""

    id: UUID
    deduplicated: bool = False


class Submitter(Protocol):
    def __call__(self, requests: Iterable[SubmitRequest], *, by: str = "") -> list[Submitted]: ...


@dataclass(frozen=True, kw_only=True)
class JobType:
    """A function and how to run it. Durations are in seconds."""

    name: str
    fn: Callable[..., Any]
    model: type[Params]
    where: str
    queue: str = "default"
    priority: str = "normal"
    retries: int = 3
    backoff_s: float = 2.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    lease_s: float | None = None
    atomic: bool = False
    alone: bool = False
    unique: str | None = None
    schedule: Cadence | None = None
    overlap: str = "allow"
    missed: str = "once"
    grace_s: float = 60.0

    @cached_property
    def title(self) -> str:
        lines = (inspect.getdoc(self.fn) or "").splitlines()
        return lines[0].rstrip(".") if lines else self.name

    @cached_property
    def help(self) -> str:
        return "\n".join((inspect.getdoc(self.fn) or "").splitlines()[1:]).strip()

    @property
    def max_tries(self) -> int:
        return self.retries + 1

    def schema(self) -> dict[str, Any]:
        """Return the parameters' JSON Schema (2020-12)."""
        return {**self.model.model_json_schema(), "title": self.title}

    def submit(self, **params: Any) -> Submitted:
        """Submit one job; inside a caller's transaction it belongs to that transaction."""
        return Options(type=self).submit(**params)

    def submit_many(self, many: Iterable[Mapping[str, Any]]) -> list[UUID]:
        """Submit any number of jobs, in slices; all are checked before the first is stored."""
        return Options(type=self).submit_many(many)

    def options(self, **options: Any) -> Options:
        """Choose queue, priority, delay_s, run_at, expires_in_s, unique or on_conflict for the next submit."""
        return replace(Options(type=self), **options)

    def after(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> Options:
        """Run no sooner than this long from now, by the database's clock; raises InvalidOption."""
        try:
            delay = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days).total_seconds()
        except (TypeError, ValueError, OverflowError):
            raise InvalidOption("delay", f"must be a number of seconds {DELAY.words()}.") from None
        return self.options(delay_s=DELAY.check("delay", delay))

    def at(self, when: datetime) -> Options:
        """Run no sooner than a moment; it must carry a time zone."""
        return self.options(run_at=when)

    def run(self, **params: Any) -> Any:
        """Run the function here and now, with a context in memory; for tests."""
        return self.run_with(LocalContext(), **params)

    def run_with(self, ctx: Context, **params: Any) -> Any:
        """Run the function here and now with a context of your own; parameters are checked as in production."""
        return self.call(ctx, check(self.model, params)[0])

    def call(self, ctx: Context, checked: Params) -> Any:
        """Call the function with parameters that were checked."""
        return self.fn(ctx, **{name: getattr(checked, name) for name in type(checked).model_fields})

    @cached_property
    def takes_files(self) -> bool:
        """Whether a parameter, or a part of one, names an uploaded file."""
        return FILE_FORMAT in json.dumps(self.model.model_json_schema())

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The parameters that hold a secret, or may."""
        return hidden_names(self.model)

    @property
    def goes_alone(self) -> bool:
        """Whether a hint must carry one job of this type only: a batch would widen its transaction's window."""
        return self.atomic or self.alone


@dataclass(frozen=True, kw_only=True)
class Options:
    """A job type with choices for one submit."""

    type: JobType
    queue: str | None = None
    priority: str | None = None
    delay_s: float | None = None
    run_at: datetime | None = None
    expires_in_s: float | None = None
    unique: str | None = None
    on_conflict: str = "return"

    def submit(self, **params: Any) -> Submitted:
        return registry.submitter([self._request(params)])[0]

    def submit_many(self, many: Iterable[Mapping[str, Any]]) -> list[UUID]:
        return [s.id for s in registry.submitter(self._request(params) for params in many)]

    def _request(self, params: Mapping[str, Any]) -> SubmitRequest:
        return SubmitRequest(
            type=self.type.name,
            params=params,
            queue=self.queue,
            priority=self.priority,
            delay_s=self.delay_s,
            run_at=self.run_at,
            expires_in_s=self.expires_in_s,
            unique=self.unique,
            on_conflict=self.on_conflict,
        )


class Registry:
    """Every job type that this process knows, by name."""

    def __init__(self) -> None:
        self._types: dict[str, JobType] = {}
        self.submitter: Submitter = _not_ready

    def install(self, submitter: Submitter) -> None:
        self.submitter = submitter

    def add(self, new: JobType) -> None:
        old = self._types.get(new.name)
        if old is not None and (old.fn.__module__, old.fn.__qualname__) != (
            new.fn.__module__,
            new.fn.__qualname__,
        ):
            raise DeclarationError(
                f"{new.where}: the name {new.name!r} is taken by {old.where}; give one of them @job(name=…)."
            )
        self._types[new.name] = new

    def remove(self, name: str) -> None:
        self._types.pop(name, None)

    def get(self, name: str) -> JobType:
        try:
            return self._types[name]
        except (KeyError, TypeError):  # TypeError: what cannot be a key of a dict
            raise UnknownJobType(name, sorted(self._types)) from None

    def takes_files(self, name: str) -> bool:
        """Whether a type's parameters name files; of a type that nobody here knows, nothing is known."""
        return name in self._types and self._types[name].takes_files

    def secret_names(self, name: str) -> frozenset[str]:
        """Which parameters of a type hold a secret; of a type that nobody here knows, none is known."""
        return self._types[name].secret_names if name in self._types else frozenset()

    def all(self) -> list[JobType]:
        return [self._types[name] for name in sorted(self._types)]

    def names(self) -> list[str]:
        return sorted(self._types)

    def queues(self) -> list[str]:
        return sorted({t.queue for t in self._types.values()} | {"default"})


def _not_ready(requests: Iterable[SubmitRequest], *, by: str = "") -> NoReturn:
    raise RuntimeError("Jobs can be submitted once Django is set up: call django.setup() first.")


registry = Registry()
