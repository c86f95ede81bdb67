"""Exceptions between a job's function and the runner: those that the function raises, and those raised inside it.

None of them is an EsteiraError: each ends an attempt, and none becomes an answer of the API. Those that no job may
swallow by its `except Exception` are BaseExceptions. Pure: importable before Django.
"""

from __future__ import annotations

from datetime import timedelta

from esteira.values.pause import pause_s


class Retry(Exception):
    """Raise in a job to try again later: counts as a try, without an error being logged.

    `after` is a timedelta or in seconds, at most ten years (else InvalidOption); without it the job type's back-off
    decides.
    """

    #: Seconds; a class of its own that never calls ours asks for nothing.
    after: float | None = None

    def __init__(self, message: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(message or "the job asked to be tried again")
        self.after = None if after is None else pause_s(after)


class GiveUp(Exception):
    """Raise in a job to fail for good, whatever tries are left."""


class TransactionEnded(Exception):
    """Raised at a completion whose transaction the job has ended itself, by a raw COMMIT or ROLLBACK.

    What it wrote before that is committed or gone whatever happens now, so the job fails for good.
    """

    def __init__(self) -> None:
        super().__init__(
            "The job ended the transaction of its completion itself, by a COMMIT or ROLLBACK of its own: what it wrote "
            "and its success can no longer be recorded together. Remove that statement, or use transaction.atomic()."
        )


class Cancelled(BaseException):
    """Raised inside a job's function by the context when somebody cancelled the job.

    A BaseException, so that a job's own `except Exception` does not swallow it.
    """


class TimeLimitExceeded(Exception):
    """Raised inside a job's function when its time limit has passed; it has 30 s to tidy up."""


class LeaseLost(BaseException):
    """Another attempt owns this job now; whatever this one does is refused."""
