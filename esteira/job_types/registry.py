"""Job types and the registry of all of them.

Pure: importable before Django. Submitting needs the database, so the core installs its submitter when Django is ready
(`install`); before that a submit raises an error.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NoReturn
from uuid import UUID

from esteira.errors import DeclarationError, InvalidOption, UnknownJobType
from esteira.job_types.checking import check
from esteira.job_types.context import Context, LocalContext
from esteira.job_types.parameters import FILE_FORMAT, Params
from esteira.job_types.request import Alike, SubmitRequest, Submitted
from esteira.job_types.schedule import Cadence
from esteira.job_types.secret import hidden_names
from esteira.values.bounds import DELAY

DEFAULT_TIMEOUT_S = 600.0
#: A job that ignores its time limit is killed this much later.
HARD_AFTER_S = 30.0


Submitter = Callable[[Iterable[SubmitRequest]], list[Submitted]]


@dataclass(frozen=True, kw_only=True)
class JobType:
    """A function and how to run it. Durations are in seconds."""

    name: str
    fn: Callable[..., Any]
    model: type[Params]
    where: str
    queue: str
    priority: str
    retries: int
    backoff_s: float
    timeout_s: float
    lease_s: float | None
    atomic: bool
    alone: bool
    unique: str | None
    schedule: Cadence | None
    overlap: str
    missed: str
    grace_s: float

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
        """Choose options for the next submit; `SubmitRequest` has their names, bounds and meanings."""
        SubmitRequest(
            type=self.name, params={}, **options
        )  # refuses an unknown name at the line that wrote it
        return Options(type=self, chosen=options)

    def after(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> Options:
        """Run no sooner than this long from now, by the database's clock; raises InvalidOption."""
        try:
            delay = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days).total_seconds()
        except (TypeError, ValueError, OverflowError):
            allowed = {"least": DELAY.least, "most": DELAY.most}
            raise InvalidOption("delay", "unreadable-duration", **allowed) from None
        return self.options(delay=DELAY.check("delay", delay))

    def at(self, when: datetime) -> Options:
        """Run no sooner than a moment, which must have a time zone."""
        return self.options(run_at=when)

    def run(self, **params: Any) -> Any:
        """Run the function here and now, with a context in memory; for tests."""
        return self.run_with(LocalContext(), **params)

    def run_with(self, ctx: Context, **params: Any) -> Any:
        """Run the function here and now with the given context; parameters are checked as in production."""
        return self.call(ctx, check(self.model, params)[0])

    def call(self, ctx: Context, checked: Params) -> Any:
        """Call the function with checked parameters."""
        return self.fn(ctx, **{name: getattr(checked, name) for name in type(checked).model_fields})

    @cached_property
    def takes_files(self) -> bool:
        """Whether a parameter, or a part of one, names an uploaded file."""
        return FILE_FORMAT in json.dumps(self.model.model_json_schema())

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The parameters that hold a secret, or may."""
        return hidden_names(self.model)

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger of its jobs."""
        return logging.getLogger(f"jobs.{self.name}")

    @property
    def goes_alone(self) -> bool:
        """Whether a hint must carry only one job of this type: a batch would keep its transaction open longer."""
        return self.atomic or self.alone


@dataclass(frozen=True, kw_only=True)
class Options:
    """A job type with options for one submit."""

    type: JobType
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def submit(self, **params: Any) -> Submitted:
        return registry.submitter([self._request(params)])[0]

    def submit_many(self, many: Iterable[Mapping[str, Any]]) -> list[UUID]:
        return [s.id for s in registry.submitter(Alike(one=self._request({}), many=many))]

    def _request(self, params: Mapping[str, Any]) -> SubmitRequest:
        return SubmitRequest(type=self.type.name, params=params, **self.chosen)


class Registry:
    """All job types of this process, by name."""

    def __init__(self) -> None:
        self._types: dict[str, JobType] = {}
        self.submitter: Submitter = _not_ready
        self._tasks: Callable[[], Iterable[str]] = tuple

    def install(self, submitter: Submitter) -> None:
        self.submitter = submitter

    def run_tasks(self, names: Callable[[], Iterable[str]]) -> None:
        """Let this process announce Celery tasks as well; their names are read again at each announcement."""
        self._tasks = names

    def runnable(self) -> list[str]:
        """Return the names of everything that this process can run: job types, and adopted Celery tasks."""
        return sorted({*self._types, *self._tasks()})

    def add(self, new: JobType) -> None:
        old = self._types.get(new.name)
        if old is not None and (old.fn.__module__, old.fn.__qualname__) != (
            new.fn.__module__,
            new.fn.__qualname__,
        ):
            raise DeclarationError("name-taken", where=new.where, name=new.name, other=old.where)
        self._types[new.name] = new

    def remove(self, name: str) -> None:
        self._types.pop(name, None)

    def get(self, name: str) -> JobType:
        try:
            return self._types[name]
        except (KeyError, TypeError):  # TypeError: the name cannot be a key of a dict
            raise UnknownJobType(name, sorted(self._types)) from None

    def takes_files(self, name: str) -> bool:
        """Return whether a type's parameters name files; False for a type that this process does not have."""
        return name in self._types and self._types[name].takes_files

    def secret_names(self, name: str) -> frozenset[str]:
        """Return which parameters of a type hold a secret; none for a type that this process does not have."""
        return self._types[name].secret_names if name in self._types else frozenset()

    def all(self) -> list[JobType]:
        return [self._types[name] for name in sorted(self._types)]

    def names(self) -> list[str]:
        return sorted(self._types)

    def queues(self) -> list[str]:
        return sorted({t.queue for t in self._types.values()} | {"default"})


def _not_ready(_: Iterable[SubmitRequest]) -> NoReturn:
    raise RuntimeError("Jobs can be submitted once Django is set up: call django.setup() first.")


registry = Registry()
