"""Make the outcome that is recorded from a function's result or error: results, errors, retries.

Code of the job runs here: the class of an error gives its text, its fields and even its name, and a result may contain
a generator. All of it may raise errors. They leave this module only as BadResult, as BrokenResult, or as an error that
a function raises to choose its outcome (Retry, GiveUp, TimeLimitExceeded), so every attempt gets an outcome.
"""

from __future__ import annotations

import json
import random
import traceback
from contextlib import suppress
from typing import Any

from pydantic_core import to_jsonable_python

from esteira.errors import NotFound, TooLarge
from esteira.job_types.checking import NUL
from esteira.job_types.exceptions import GiveUp, Retry, TimeLimitExceeded, TransactionEnded
from esteira.record.finish import Outcome
from esteira.record.lease import Break
from esteira.runner.held import Held
from esteira.runner.scrub import Scrub, scrubbed
from esteira.values.bounds import clean, nests_too_deeply
from esteira.values.pause import pause_s
from esteira.values.spoken import name_of, said
from esteira.values.storable import merged_in_json

RESULT_MAX = 256 * 1024
MESSAGE_MAX, TRACEBACK_MAX, NAME_MAX = 4 * 1024, 16 * 1024, 200
BACKOFF_MAX_S = 3600.0
#: The modules through which the core calls a job's function: their frames do not help the author of the job.
CORE_FRAMES = tuple(
    f"/esteira/runner/{name}.py" for name in ("attempt", "between", "calling", "pool_process")
)


class BadParameters(Exception):
    """The check of stored parameters raised an error: it neither accepted nor refused them."""


class BadResult(Exception):
    """The value that the function returned cannot be stored."""


class BrokenResult(Exception):
    """The value that the function returned raised an error while it was read, as a generator can."""


#: Another try would fail again: a deleted file stays deleted, and a file over the limit stays over it.
HOPELESS = (GiveUp, BadResult, NotFound, TooLarge, TransactionEnded)
#: A function chooses its outcome by raising these, wherever its code runs: also in a check or in a result.
SAID_ON_PURPOSE = (Retry, GiveUp, TimeLimitExceeded)

_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeLimitExceeded, "timeout"),
    (Retry, "retry"),
    (GiveUp, "given up"),
    (BadParameters, "parameters"),
    (BadResult, "result"),
    (BrokenResult, "result"),
)


def succeeded(held: Held, value: Any, *, ended: float) -> Outcome:
    """Make the outcome of a function that returned; raises BadResult, BrokenResult or one of SAID_ON_PURPOSE."""
    return _outcome(held, "succeeded", ended, result=_result(value, held.scrub))


def failed(held: Held, error: BaseException, *, ended: float) -> Outcome:
    """Make the outcome of a function that raised an error: it is tried again if tries are left, unless it gave up."""
    # Celery itself counts the retries of a task, so a failure that comes to the runner is the last one.
    kind = "given_up" if is_a(error, *HOPELESS) or held.job.message is not None else "failed"
    return _outcome(
        held,
        kind,
        ended,
        error=json.dumps(told(error, held.scrub), ensure_ascii=False),
        delay_s=_delay_s(held, error),
    )


def cancelled(held: Held, *, ended: float) -> Outcome:
    """Make the outcome of a job that was cancelled before it started, or that stopped at a request to cancel."""
    return _outcome(held, "cancelled", ended)


def timed_out(held: Held, ran_s: float) -> Outcome:
    """Make the outcome of a job that ignored its time limit; its process will be ended."""
    error = TimeLimitExceeded(
        f"ended by force after {ran_s:.0f} s: it ignored its limit of {held.job.timeout_s:g} s"
    )
    return failed(held, error, ended=(held.started or held.claimed) + ran_s)


def connection_lost(error: BaseException) -> Break:
    """Return why an attempt has no known outcome: it lost its connection to the database."""
    return Break(
        reason="connection lost",
        type="ConnectionLost",
        message="This job lost its connection to the database while it ran, most recently with "
        f"{name_of(error)}: {_short(error)}. If the database was healthy, the job causes the loss itself: "
        "by a query that crashes the server, or by a transaction that is idle for longer than the server allows.",
    )


def core_failed(error: Exception) -> Break:
    """Return why an attempt has no outcome: the core itself failed."""
    return Break(
        reason="worker failed",
        type="CoreError",
        message=f"The worker itself failed while it ran this job: {name_of(error)}: {_short(error)}.",
    )


def _short(error: BaseException) -> str:
    return clean(said(error)).strip().rstrip(".")[:500]


def backoff_s(base_s: float, failures: int) -> float:
    """Return the pause before the next try: doubled with every failure, at most an hour, times 0.5 to 1.5."""
    return float(min(BACKOFF_MAX_S, base_s * 2 ** min(failures - 1, 40)) * random.uniform(0.5, 1.5))


def is_a(error: BaseException, *classes: type[BaseException]) -> bool:
    """Return whether an error has one of these classes; `isinstance` would run code of the error, which may raise."""
    return issubclass(type(error), classes)


def told(error: BaseException, scrub: Scrub | None = None) -> dict[str, str]:
    """Return the stored form of an error: kind, type, message, and traceback without core frames; no secrets."""
    hide = scrub or str
    kind = next((kind for of, kind in _KINDS if is_a(error, of)), "exception")
    try:
        return {
            "kind": kind,
            "type": hide(clean(name_of(error)))[:NAME_MAX],
            "message": hide(clean(said(error)))[:MESSAGE_MAX],
            "traceback": "" if kind in ("retry", "given up") else hide(clean(_trace(error)))[-TRACEBACK_MAX:],
        }
    except BaseException:  # its class may raise anything, SystemExit too
        message = "The error cannot be described: its own class raises errors when its text is read."
        return {"kind": kind, "type": "Exception", "message": message, "traceback": ""}


def _trace(error: BaseException) -> str:
    try:
        frames = traceback.TracebackException.from_exception(error, compact=True)
        return "".join(line for line in frames.format() if not any(one in line for one in CORE_FRAMES))
    except BaseException as worse:  # as above: the code of the error's class runs here
        return f"(its traceback cannot be read: {name_of(worse)})"


def _delay_s(held: Held, error: BaseException) -> float:
    """Return the pause that a Retry asks for, if it is valid: a subclass may have set it without Retry's check."""
    with suppress(BaseException):  # a subclass may raise anything when its fields are read
        asked = getattr(error, "after", None) if is_a(error, Retry) else None
        if asked is not None:
            return pause_s(asked)
    return backoff_s(held.job.backoff_s, held.job.tries)


def _result(value: Any, scrub: Scrub | None = None) -> str | None:
    if value is None:
        return None
    try:
        plain = _plain(value)
        plain = scrubbed(plain, scrub) if scrub else plain
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text) if text.isascii() else len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise BadResult(
            f"The result cannot be stored as JSON: {error}. Return dicts, lists, text and numbers."
        ) from None
    if size > RESULT_MAX:
        raise BadResult(
            "The result is larger than 256 KiB of JSON; write it with ctx.file() and return what a reader needs."
        )
    if "\\u0000" in text and NUL.search(text):
        raise BadResult("The result holds a NUL character, which cannot be stored; remove it.")
    if nests_too_deeply(text):
        raise BadResult("The result is nested too deeply to be shown; return it as text, or flatten it.")
    return text


def _plain(value: Any) -> Any:
    """Turn a result into dicts, lists, text and numbers; a generator in it runs the function's own code only now."""
    try:
        plain = to_jsonable_python(value)
        if merged_in_json(value, plain):
            raise BadResult(
                'The result has a dict with two keys that are equal in JSON, such as 1 and "1"; make every key text, '
                "and use each once."
            )
        return plain
    except (BadResult, *SAID_ON_PURPOSE):
        raise
    except Exception as error:  # a generator's body is the function's own code, and may raise anything
        own = error.__traceback__
        if own is None or own.tb_next is None:  # raised by the conversion itself, not by code that it called
            raise
        raise BrokenResult(f"The result could not be read: {name_of(error)}: {said(error)}") from error


def _outcome(held: Held, kind: str, ended: float, **rest: Any) -> Outcome:
    return Outcome(
        id=held.job.id,
        attempt=held.job.attempt,
        kind=kind,
        started_s=(held.started or held.claimed) - held.claimed,
        ended_s=ended - held.claimed,
        files=held.has_files,
        **rest,
    )
