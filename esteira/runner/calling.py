"""Run the code of a job type: the check of the parameters, the function, and the conversion of the result.

`called` lets all errors of that code pass, so that `esteira.runner.attempt` counts them. A check that raises an error
and a transaction that is left open fail the try; parameters that the signature refuses use no try. If the process dies
here, the lease ends.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from pydantic import ValidationError

from esteira.db import sessions
from esteira.errors import InvalidParameters, UnknownJobType
from esteira.job_types.checking import problems
from esteira.job_types.context import Context
from esteira.job_types.parameters import Params
from esteira.job_types.registry import JobType, registry
from esteira.record.finish import Outcome
from esteira.runner.held import Held
from esteira.runner.outcome import SAID_ON_PURPOSE, BadParameters, succeeded
from esteira.runner.pool_process import guarded
from esteira.runner.runtime import OutcomeUnknown, WorkerHost
from esteira.values import spoken
from esteira.values.bounds import clean
from esteira.values.json_text import stored

log = logging.getLogger("esteira.runner")


class Refused(BaseException):
    """The signature in this release refuses the stored parameters; the function was not called."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def called(held: Held, host: WorkerHost) -> Outcome | None:
    """Run an attempt and return its outcome; None if its completion has recorded it already.

    Call it through `between.call`: on_commit hooks, the check of parameters and a returned generator are code of the
    job as well.
    """
    job_type = _known(held)
    context = Context(
        job_id=held.job.id,
        attempt=held.job.attempt,
        try_number=held.job.tries,
        log=job_type.logger,
        host=host,
    )
    value = _call(job_type, context, _params(held, job_type))
    if not held.has_completed and held.unsure is None:
        outcome = succeeded(held, value, ended=time.monotonic())
        if left := sessions.left_open():
            raise left
        return outcome
    if not held.has_completed:  # the function caught the error that reported it
        raise OutcomeUnknown from held.unsure
    if value is not None:
        log.info("job %s returned a value after its completion; it is not recorded", held.job.id)
    if left := sessions.left_open():
        log.warning("job %s had already completed when this was found: %s", held.job.id, left)
    return None


def _known(held: Held) -> JobType:
    try:
        return registry.get(held.job.type)
    except UnknownJobType as error:
        raise Refused(clean(str(error))) from None


def _params(held: Held, job_type: JobType) -> Params:
    try:
        try:
            return job_type.model.model_validate(stored(held.job.params))
        except ValidationError as error:
            raise Refused(clean(str(InvalidParameters(problems(error))))) from None
    except SAID_ON_PURPOSE:
        raise
    except (
        Exception
    ) as error:  # a validator may raise anything, and Python refuses numbers with too many digits
        said = f"{spoken.name_of(error)}: {spoken.said(error)}"
        raise BadParameters(f"The check of the stored parameters raised an error: {said}") from error


def _call(job_type: JobType, context: Context, params: Params) -> Any:
    if not job_type.atomic:
        return guarded(job_type.call, context, params)
    with (
        context.completing() as done
    ):  # a child that the function forks ends before it could complete anything
        done.result = guarded(job_type.call, context, params)
    return None
