"""`@job`: turn a function into a job type with a name, options and checked parameters.

Pure: importable before Django. Mistakes in a declaration are refused here, at import, with file and line.
"""

from __future__ import annotations

import inspect
import string
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, overload

from esteira.errors import DeclarationError, InvalidOption
from esteira.job_types.parameters import model_of
from esteira.job_types.registry import DEFAULT_TIMEOUT_S, JobType, registry
from esteira.job_types.request import PRIORITIES
from esteira.job_types.schedule import Cadence, checked
from esteira.job_types.secret import open_names
from esteira.values import bounds
from esteira.values.bounds import Span

#: A transaction that stays open for long delays VACUUM for the whole database.
ATOMIC_TIMEOUT_S = 60.0
#: What a schedule does if its job still runs, and if ticks were missed.
OVERLAPS, MISSED = ("allow", "skip", "queue"), ("skip", "once", "all")


@overload
def job(fn: Callable[..., Any]) -> JobType: ...
@overload
def job(
    *,
    name: str | None = None,
    queue: str = "default",
    priority: str = "normal",
    retries: int = 3,
    backoff: float | timedelta = 2.0,
    timeout: float | timedelta | None = None,
    lease: float | timedelta | None = None,
    atomic: bool = False,
    alone: bool | None = None,
    unique: str | None = None,
    schedule: Cadence | None = None,
    overlap: str = "allow",
    missed: str = "once",
    grace: float | timedelta = 60.0,
) -> Callable[[Callable[..., Any]], JobType]: ...
def job(
    fn: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    queue: str = "default",
    priority: str = "normal",
    retries: int = 3,
    backoff: float | timedelta = 2.0,
    timeout: float | timedelta | None = None,
    lease: float | timedelta | None = None,
    atomic: bool = False,
    alone: bool | None = None,
    unique: str | None = None,
    schedule: Cadence | None = None,
    overlap: str = "allow",
    missed: str = "once",
    grace: float | timedelta = 60.0,
) -> Any:
    """Make a function a job type; raises DeclarationError with file and line. Durations: seconds or timedelta.

    `retries` counts tries after the first failure. `timeout` is the time limit (600 s; 60 s when atomic). `alone` keeps
    jobs of this type out of batches; it is set automatically for functions that use `completing`.
    """

    def declare(fn: Callable[..., Any]) -> JobType:
        if not inspect.isfunction(fn):
            raise DeclarationError("not-a-function", given=repr(fn))
        where = f"{inspect.getsourcefile(fn)}:{fn.__code__.co_firstlineno}"
        chosen = name or _default_name(fn)
        _refuse_bad_options(where, chosen, queue, priority, retries, overlap, missed, fn)
        new = JobType(
            name=chosen,
            fn=fn,
            where=where,
            model=model_of(fn, where=where, name=fn.__name__),
            queue=queue,
            priority=priority,
            retries=retries,
            backoff_s=_seconds(where, "backoff", backoff, bounds.BACKOFF),
            timeout_s=_seconds(
                where,
                "timeout",
                (ATOMIC_TIMEOUT_S if atomic else DEFAULT_TIMEOUT_S) if timeout is None else timeout,
                bounds.TIMEOUT,
            ),
            lease_s=None if lease is None else _seconds(where, "lease", lease, bounds.LEASE),
            atomic=atomic,
            alone=_uses(fn.__code__, "completing") if alone is None else alone,
            unique=unique,
            schedule=schedule,
            overlap=overlap,
            missed=missed,
            grace_s=_seconds(where, "grace", grace, bounds.GRACE),
        )
        _refuse_bad_schedule(new)
        _refuse_schedule_without_defaults(new)
        _refuse_bad_unique(new)
        registry.add(new)
        return new

    return declare if fn is None else declare(fn)


def _default_name(fn: Callable[..., Any]) -> str:
    """Return a default name `module.function`, without the package."""
    return f"{fn.__module__.rsplit('.', 1)[-1]}.{fn.__name__}"


def _uses(code: types.CodeType, attribute: str) -> bool:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return attribute in code.co_names or any(_uses(c, attribute) for c in inner)


def _seconds(where: str, field: str, value: float | timedelta, allowed: Span) -> float:
    try:
        return allowed.check(field, value)
    except InvalidOption as error:
        [mistake] = error.mistakes
        raise DeclarationError("bad-option", where=where, option=field, mistake=mistake) from None


def _refuse_bad_options(
    where: str,
    name: str,
    queue: str,
    priority: str,
    retries: int,
    overlap: str,
    missed: str,
    fn: Callable[..., Any],
) -> None:
    def refuse(wording: str, **values: Any) -> NoReturn:
        raise DeclarationError(wording, where=where, **values)

    if inspect.iscoroutinefunction(fn):
        refuse("async-function", function=fn.__name__)
    if not _is_text(name, bounds.TYPE_NAME) or any(c.isspace() or not c.isprintable() for c in name):
        refuse("bad-name", given=bounds.shown(name))
    if not _is_text(queue, bounds.QUEUE_NAME) or not queue.replace("-", "").replace("_", "").isalnum():
        refuse("bad-queue", given=bounds.shown(queue))
    if not isinstance(priority, str) or priority not in PRIORITIES:
        refuse("bad-choice", option="priority", given=bounds.shown(priority), allowed=list(PRIORITIES))
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= bounds.RETRIES.most:
        refuse("bad-retries", most=bounds.RETRIES.most, given=bounds.shown(retries))
    for option, chosen, allowed in (("overlap", overlap, OVERLAPS), ("missed", missed, MISSED)):
        if chosen not in allowed:
            refuse("bad-policy", option=option, given=repr(chosen), allowed=allowed)


def _is_text(value: Any, allowed: bounds.Text) -> bool:
    return isinstance(value, str) and allowed.least <= len(value) <= allowed.most


def _refuse_bad_schedule(new: JobType) -> None:
    if not isinstance(new.schedule, Cadence | None):
        raise DeclarationError("bad-schedule", where=new.where, given=bounds.shown(new.schedule))
    if new.schedule is not None:
        try:
            checked(new.schedule)  # the cadence may have been made without cron(…) and every(…)
        except DeclarationError as error:
            raise DeclarationError("schedule-refused", where=new.where, error=error) from None


def _refuse_schedule_without_defaults(new: JobType) -> None:
    required = [name for name, field in new.model.model_fields.items() if field.is_required()]
    if new.schedule and required:
        raise DeclarationError("schedule-without-defaults", where=new.where, name=new.name, missing=required)


def _refuse_bad_unique(new: JobType) -> None:
    """Refuse a template that cannot be filled in, or that shows a secret, although keys are made only at a submit."""
    if new.unique is None:
        return
    blamed = {"where": new.where, "given": bounds.shown(new.unique)}
    try:
        named = set(fields_of(bounds.UNIQUE.check("unique", new.unique)))
    except (ValueError, InvalidOption) as error:
        raise DeclarationError("unique-unreadable", **blamed, reason=str(error)) from None
    if unknown := named - set(new.model.model_fields):
        names = [repr(name) for name in sorted(unknown)]
        raise DeclarationError("unique-unknown", **blamed, names=names, name=new.name)
    if hidden := named - open_names(new.model):
        raise DeclarationError("unique-secret", **blamed, names=[repr(name) for name in sorted(hidden)])


def fields_of(template: str) -> Iterator[str]:
    """Yield the parameters that a template names, also those inside a format: {total:{width}}."""
    for _, field, form, _ in string.Formatter().parse(template):
        if field is not None:
            yield field
        if form:
            yield from fields_of(form)
