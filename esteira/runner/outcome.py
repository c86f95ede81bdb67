"""From what a job's function did to the outcome that is recorded: results, errors, retries.

An error's own class runs here (its text, its fields, its very name), and so does what it returned, and any of it may
raise. Nothing of that leaves this module but as BadResult, as BrokenResult, or as what a function says on purpose by
raising it (Retry, GiveUp, TimeLimitExceeded): every attempt gets its outcome.
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
from esteira.record.finish import Break, Outcome
from esteira.runner.held import Held
from esteira.runner.scrub import Scrub, scrubbed
from esteira.values.bounds import clean, nests_too_deeply
from esteira.values.pause import pause_s
from esteira.values.spoken import name_of, said
from esteira.values.storable import merged_in_json

RESULT_MAX = 256 * 1024
MESSAGE_MAX, TRACEBACK_MAX, NAME_MAX = 4 * 1024, 16 * 1024, 200
BACKOFF_MAX_S = 3600.0
#: Where the core calls a job's function: no help to its author.
CORE_FRAMES = tuple(
    f"/esteira/runner/{name}.py" for name in ("attempt", "between", "calling", "pool_process")
)


class BadParameters(Exception):
    """The check of stored parameters broke: it neither accepted nor refused them."""


class BadResult(Exception):
    """What the function returned cannot be stored."""


class BrokenResult(Exception):
    """What the function returned raised an error while it was read, as a generator can."""


#: Another try would meet these again: a file that is gone stays gone, one over the limit stays over it.
HOPELESS = (GiveUp, BadResult, NotFound, TooLarge, TransactionEnded)
#: What a function says by raising them, it says wherever its code runs: in a check of its parameters, in its result.
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
    """Make the outcome of a function that returned; raises BadResult, BrokenResult or what the function may raise."""
    return _outcome(held, "succeeded", ended, result=_result(value, held.scrub))


def failed(held: Held, error: BaseException, *, ended: float) -> Outcome:
    """Make the outcome of a function that raised: it is tried again if tries are left, unless it gave up."""
    kind = "given_up" if is_a(error, *HOPELESS) else "failed"
    return _outcome(
        held,
        kind,
        ended,
        error=json.dumps(told(error, held.scrub), ensure_ascii=False),
        delay_s=_delay_s(held, error),
    )


def cancelled(held: Held, *, ended: float) -> Outcome:
    """Make the outcome of a job that was cancelled before it started, or that stopped when asked."""
    return _outcome(held, "cancelled", ended)


def timed_out(held: Held, ran_s: float) -> Outcome:
    """Make the outcome of a job that ignored its time limit; its process is about to be ended."""
    error = TimeLimitExceeded(
        f"ended by force after {ran_s:.0f} s: it ignored its limit of {held.job.timeout_s:g} s"
    )
    return failed(held, error, ended=(held.started or held.claimed) + ran_s)


def connection_lost(error: BaseException) -> Break:
    """Make the end of an attempt that lost its connection to the database, so that its outcome is unknown."""
    return Break(
        reason="connection lost",
        type="ConnectionLost",
        message="This job lost its connection to the database while it ran, the last time by "
        f"{name_of(error)}: {_short(error)}. If the database was healthy, the job cuts its own connection: "
        "by a query that crashes the server, or by a transaction that is idle for longer than the server allows.",
    )


def core_failed(error: Exception) -> Break:
    """Make the end of an attempt around which the core itself failed."""
    return Break(
        reason="worker failed",
        type="CoreError",
        message=f"The worker itself failed around this job: {name_of(error)}: {_short(error)}.",
    )


def _short(error: BaseException) -> str:
    return clean(said(error)).strip().rstrip(".")[:500]


def backoff_s(base_s: float, failures: int) -> float:
    """Return the pause before the next try: doubled with every failure, at most an hour, half to one and a half."""
    return float(min(BACKOFF_MAX_S, base_s * 2 ** min(failures - 1, 40)) * random.uniform(0.5, 1.5))


def is_a(error: BaseException, *classes: type[BaseException]) -> bool:
    """Say whether an error is of a class; `isinstance` would ask the error itself, which may raise."""
    return issubclass(type(error), classes)


def told(error: BaseException, scrub: Scrub | None = None) -> dict[str, str]:
    """Return what is kept of an error: kind, type, message and the traceback without core frames, and no secrets."""
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
        message = "What was raised cannot be told: its own class raises errors when it is asked."
        return {"kind": kind, "type": "Exception", "message": message, "traceback": ""}


def _trace(error: BaseException) -> str:
    try:
        frames = traceback.TracebackException.from_exception(error, compact=True)
        return "".join(line for line in frames.format() if not any(one in line for one in CORE_FRAMES))
    except BaseException as worse:  # as above: the error's own code runs here
        return f"(its traceback cannot be read: {name_of(worse)})"


def _delay_s(held: Held, error: BaseException) -> float:
    """Return a Retry's own pause, if it can be used: a class of its own may have set it past Retry's check."""
    with suppress(BaseException):  # that class may raise anything when it is asked
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
                'The result has a dict with two keys that are one in JSON, such as 1 and "1"; make every key text, and '
                "give each once."
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
