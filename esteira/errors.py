"""All errors that a caller may catch: one base class, and one class for each cause.

The message names the field and the remedy. `code` is the stable name from which the API makes a problem type; `status`
is the status of its HTTP answer. This module can be imported before Django.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class EsteiraError(Exception):
    """A request that Esteira refuses or cannot execute; the message names the remedy."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400


class DeclarationError(EsteiraError):
    """A job type is declared wrongly; raised at import, with the file and line."""

    code = "declaration"


class UnknownJobType(EsteiraError):
    code = "unknown-job-type"
    status = 422

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        near = f" Known: {', '.join(known[:20])}." if known else ""
        super().__init__(f"type: there is no job type {_cut(name)}.{near}")
        self.name = name


class InvalidParameters(EsteiraError):
    """Parameters that the job type's signature refuses: all mistakes at once, each with its field."""

    code = "invalid-parameters"
    status = 422

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        said = "; ".join(f"{e['pointer']}: {e['detail']}" for e in list(errors)[:5])
        more = f" (and {len(errors) - 5} more)" if len(errors) > 5 else ""
        super().__init__(f"{said}{more}")
        self.errors = list(errors)


class InvalidOption(EsteiraError):
    code = "invalid-option"
    status = 422

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.errors = [{"pointer": f"#/{field}", "detail": detail}]


class UnknownQueue(InvalidOption):
    code = "unknown-queue"

    def __init__(self, name: object, known: Sequence[str]) -> None:
        super().__init__(
            "queue",
            f"no worker reads {_cut(name)}; use one of {', '.join(known)}, or add it to JOB_QUEUES.",
        )


class InvalidRequest(EsteiraError):
    """Mistakes of several kinds in one submit: in its type, its parameters and its options, all at once."""

    code = "invalid-request"
    status = 422

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        said = "; ".join(f"{e['pointer'].removeprefix('#/')}: {e['detail']}" for e in list(errors)[:10])
        more = f" (and {len(errors) - 10} more)" if len(errors) > 10 else ""
        super().__init__(f"{said}{more}")
        self.errors = list(errors)


class TooLarge(EsteiraError):
    code = "too-large"
    status = 413

    def __init__(self, field: str, limit: str) -> None:
        super().__init__(f"{field}: larger than the limit of {limit}.")
        self.field = field


class TooManyFiles(TooLarge):
    """A job stores more result files than a job may store."""

    code = "too-many-files"

    def __init__(self, most: int) -> None:
        super().__init__("files", f"{most:,} files")
        self.args = (
            f"files: a job stores at most {most:,} result files; put several files into one archive.",
        )


class StateConflict(EsteiraError):
    code = "state-conflict"
    status = 409

    def __init__(self, job_id: object, state: str, action: str) -> None:
        super().__init__(f"job {job_id} is {state}; it cannot be {action}.")
        self.state = state


class SecretsRemoved(StateConflict):
    """A cancelled or expired job whose secret parameters were removed when it ended."""

    code = "secrets-removed"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(job_id, state, "retried")
        why = f"job {job_id} is {state}, and its secret parameters were removed when it ended"
        self.args = (f"{why}; it cannot be retried. Submit it again with all its parameters.",)


class UniqueConflict(EsteiraError):
    code = "unique-conflict"
    status = 409

    def __init__(self, key: str, job_id: object = None) -> None:
        """Leave `job_id` out if the caller may not see the job that holds the key."""
        self.key = key
        held = f" by job {job_id}" if job_id else " by a job"
        super().__init__(f"unique: the key {key!r} is held{held}; wait until that job ends, or cancel it.")
        self.job_id = job_id


class UniqueInProgress(UniqueConflict):
    """Another transaction submits a job with this key now, and has not ended yet."""

    code = "unique-in-progress"

    def __init__(self, keys: Sequence[str]) -> None:
        EsteiraError.__init__(
            self,
            f"unique: another transaction is submitting {_listed(keys)} now and has not ended; "
            "nothing was stored. Try again in a few seconds.",
        )
        self.key, self.job_id = "", None


class Held(EsteiraError):
    """Another transaction locks this row for longer than a request should wait."""

    code = "held"
    status = 409

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(
            f"another transaction locks {kind} {name} now; nothing was changed. Try again in a few seconds."
        )


class NotFound(EsteiraError):
    code = "not-found"
    status = 404

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"there is no {kind} {name}.")


class IdempotencyMismatch(EsteiraError):
    """The Idempotency-Key was used before with another request body; use a new key for a new request."""

    code = "idempotency-mismatch"
    status = 422

    def __init__(self) -> None:
        super().__init__(str(self.__doc__))


class IdempotencyInProgress(EsteiraError):
    """The first request with this Idempotency-Key has not been answered yet; try again in a second."""

    code = "idempotency-in-progress"
    status = 409

    def __init__(self) -> None:
        super().__init__(str(self.__doc__))


class FilesFull(EsteiraError):
    """The space for files (FILES_MAX_TOTAL) is used up; delete old jobs, shorten RETENTION_DAYS or raise the limit."""

    code = "files-full"
    status = 507

    def __init__(self) -> None:
        super().__init__(str(self.__doc__))


class TooManyRequests(EsteiraError):
    """An account or an address sends more requests, or submits more, than its limit allows."""

    code = "too-many-requests"
    status = 429

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaFull(EsteiraError):
    """The uploads of one account use all the space that FILES_MAX_PER_ACCOUNT allows."""

    code = "files-quota"
    status = 507

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(
            f"Your uploads use {used / 1024**2:.1f} of {limit / 1024**2:.1f} MiB, and this one does not fit: delete "
            "some (DELETE /api/v1/files/…), or ask an operator to raise FILES_MAX_PER_ACCOUNT."
        )


class FileInUse(EsteiraError):
    """A job that has not ended, or a schedule, names this file."""

    code = "file-in-use"
    status = 409

    def __init__(self, file_id: object, by: str) -> None:
        super().__init__(f"file {file_id} is needed by {by}: wait until that has ended, or cancel it first.")


class TooSlow(EsteiraError):
    """The database could not search the jobs in time."""

    code = "search-too-slow"
    status = 503

    def __init__(self, narrower: Sequence[str] = ()) -> None:
        narrow = f"Narrow the list by {', '.join(narrower)}, or try" if narrower else "Try"
        super().__init__(f"The database took too long to search the jobs. {narrow} again in a few seconds.")


class DatabaseAway(EsteiraError):
    """The database does not answer; nothing was stored. Try again in a few seconds."""

    code = "database-away"
    status = 503

    def __init__(self) -> None:
        super().__init__(str(self.__doc__))


def mistakes(error: EsteiraError) -> list[dict[str, Any]]:
    """Return the mistakes in an error, each with a pointer to its field."""
    errors: list[dict[str, Any]] | None = getattr(error, "errors", None)
    if errors is not None:
        return errors
    field = getattr(error, "field", "type")
    return [{"pointer": f"#/{field}", "detail": str(error).removeprefix(f"{field}: ")}]


def _cut(name: object) -> str:
    """Quote a given value, shortened; it may be as long as a request's body."""
    said = repr(name)
    return said if len(said) <= 130 else f"{said[:127]}…"


def _listed(keys: Sequence[str]) -> str:
    some = ", ".join(repr(key) for key in list(keys)[:3])
    return (
        f"the key {some}" if len(keys) == 1 else f"one of the keys {some}" + (" …" if len(keys) > 3 else "")
    )
