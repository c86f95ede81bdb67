"""From what a job's function did to the outcome that is recorded: results, errors, retries."""

from __future__ import annotations

import json
import random
import traceback
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from esteira.errors import GiveUp, NotFound, Retry, TimeLimitExceeded, TooLarge
from esteira.record.finish import Outcome
from esteira.slot import Held

RESULT_MAX = 256 * 1024
MESSAGE_MAX, TRACEBACK_MAX = 4 * 1024, 16 * 1024
BACKOFF_MAX_S = 3600.0
#: Where the core calls a job's function: no help to its author.
CORE_FRAMES = ("/esteira/run.py", "/esteira/between.py")


class BadResult(Exception):
    """What the function returned cannot be stored."""


#: Another try would meet these again: a file that is gone stays gone, one over the limit stays over it.
HOPELESS = (GiveUp, BadResult, NotFound, TooLarge)


def succeeded(held: Held, value: Any, *, ended: float) -> Outcome:
    """Make the outcome of a function that returned; raises BadResult."""
    return _outcome(held, "succeeded", ended, result=_result(value))


def failed(held: Held, error: BaseException, *, ended: float) -> Outcome:
    """Make the outcome of a function that raised: it is tried again if tries are left, unless it gave up."""
    kind = "given_up" if isinstance(error, HOPELESS) else "failed"
    asked = error.after if isinstance(error, Retry) else None
    delay = asked if asked is not None else backoff_s(held.job.backoff_s, held.job.failures + 1)
    return _outcome(held, kind, ended, error=describe(error), delay_s=max(0.0, delay))


def cancelled(held: Held, *, ended: float) -> Outcome:
    """Make the outcome of a job that was cancelled before it started, or that stopped when asked."""
    return _outcome(held, "cancelled", ended)


def timed_out(held: Held, ran_s: float) -> Outcome:
    """Make the outcome of a job that ignored its time limit; its process is about to be ended."""
    error = TimeLimitExceeded(
        f"ended by force after {ran_s:.0f} s: it ignored its limit of {held.job.timeout_s:g} s"
    )
    return failed(held, error, ended=(held.started or held.claimed) + ran_s)


def backoff_s(base_s: float, failures: int) -> float:
    """Return the pause before the next try: doubled with every failure, at most an hour, half to one and a half."""
    return float(min(BACKOFF_MAX_S, base_s * 2 ** min(failures - 1, 40)) * random.uniform(0.5, 1.5))


def describe(error: BaseException) -> str:
    """Return the JSON that is kept of an error: kind, type, message and the traceback without core frames."""
    kind = (
        "timeout"
        if isinstance(error, TimeLimitExceeded)
        else "retry"
        if isinstance(error, Retry)
        else "given up"
        if isinstance(error, GiveUp)
        else "exception"
    )
    told = {
        "kind": kind,
        "type": type(error).__name__,
        "message": clean(said(error))[:MESSAGE_MAX],
        "traceback": "" if kind in ("retry", "given up") else clean(_trace(error))[-TRACEBACK_MAX:],
    }
    return json.dumps(told, ensure_ascii=False)


def clean(text: str) -> str:
    """Replace what PostgreSQL cannot store as text: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def said(error: BaseException) -> str:
    """Return an exception's own words, if it can be made to speak."""
    try:
        return str(error)
    except Exception as worse:  # an exception's own __str__ may fail
        return f"(its message cannot be read: {type(worse).__name__})"


def _trace(error: BaseException) -> str:
    try:
        frames = traceback.TracebackException.from_exception(error, compact=True)
        return "".join(line for line in frames.format() if not any(one in line for one in CORE_FRAMES))
    except Exception as worse:  # as above: the error's own code runs here
        return f"(its traceback cannot be read: {type(worse).__name__})"


def _result(value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = json.dumps(to_jsonable_python(value), allow_nan=False, separators=(",", ":"))
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        raise BadResult(
            f"The result cannot be stored as JSON: {error}. Return dicts, lists, text and numbers."
        ) from None
    if len(text) > RESULT_MAX:
        raise BadResult(
            "The result is larger than 256 KiB; write it with ctx.file() and return what a reader needs."
        )
    if "\\u0000" in text:
        raise BadResult("The result holds a NUL character, which cannot be stored; remove it.")
    return text


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
