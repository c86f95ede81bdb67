"""All errors that a caller may catch: one base class, and one class for each cause.

An error carries a code and named values; `esteira.wording` makes its sentence from them, which names the field and the
remedy. `code` is the stable name of the class; the API makes the type of a problem from `problem`, which is the code of
most classes; `status` is the status of its HTTP answer. This module can be imported before Django.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from esteira.wording import sentence


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake in a request: its stable code, the values that its sentence needs, and its place."""

    code: str
    #: The names and numbers that lead to the wrong value in a body or in a SubmitRequest, outermost first.
    at: tuple[int | str, ...] = ()
    #: The name of the query parameter instead, if the mistake is in an address.
    parameter: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """The mistake and its remedy, without the place."""
        return sentence(self.code, self.values)

    @property
    def pointer(self) -> str:
        """The place as a JSON Pointer (RFC 6901), in a fragment of an address."""
        return "#" + "".join(f"/{escaped(part)}" for part in self.at)

    @property
    def path(self) -> str:
        """The place in a request of Python, as people write it: params/text, or the name of an option."""
        return self.pointer.removeprefix("#/")

    @property
    def place(self) -> str:
        return self.pointer if self.parameter is None else self.parameter

    def as_json(self) -> dict[str, str]:
        where = {"pointer": self.pointer} if self.parameter is None else {"parameter": self.parameter}
        return {**where, "code": self.code, "detail": self.detail}

    def __str__(self) -> str:
        """Return the sentence, for a template that contains another mistake."""
        return self.detail


class EsteiraError(Exception):
    """A request that Esteira refuses or cannot execute; the message names the remedy."""

    code: ClassVar[str] = "error"
    #: The type of the API's problem document, if it is not the code.
    problem: ClassVar[str] = ""
    status: ClassVar[int] = 400

    def __init__(self, wording: str = "", /, *, field: str = "", **values: Any) -> None:
        """`wording` is the code of the sentence, if the class has several; `field` is the field that is wrong."""
        self.wording = wording or self.code
        self.field = field
        self.values = values
        #: All mistakes in the request, each with its place; an error about something else has none.
        self.mistakes: list[Mistake] = values.get("mistakes") or self._own()
        super().__init__(self.wording)

    def __str__(self) -> str:
        detail = sentence(self.wording, self.values)
        return sentence("at-field", {"field": self.field, "detail": detail}) if self.field else detail

    def _own(self) -> list[Mistake]:
        return [Mistake(code=self.wording, at=(self.field,), values=self.values)] if self.field else []


class DeclarationError(EsteiraError):
    """A job type is declared wrongly; raised at import, with the file and line."""

    code = "declaration"


class UnknownJobType(EsteiraError):
    code = "unknown-job-type"
    status = 422

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        wording = "" if known else "unknown-job-type.none-known"
        super().__init__(wording, field="type", name=_cut(name), known=known[:20])
        self.name = name


class InvalidParameters(EsteiraError):
    """Parameters that the job type's signature refuses: all mistakes at once, each with its field."""

    code = "invalid-parameters"
    status = 422

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes=list(mistakes))


class InvalidRequest(EsteiraError):
    """Mistakes of several kinds in one submit: in its type, its parameters and its options, all at once."""

    code = "invalid-request"
    status = 422

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes=list(mistakes))


class InvalidOption(EsteiraError):
    """An option is wrong; `wording` is the code of the mistake."""

    code = "invalid-option"
    status = 422

    def __init__(self, field: str, wording: str, /, **values: Any) -> None:
        super().__init__(wording, field=field, **values)


class UnknownQueue(InvalidOption):
    code = "unknown-queue"

    def __init__(self, name: object, known: Sequence[str]) -> None:
        super().__init__("queue", self.code, name=_cut(name), known=known)


class TooLarge(EsteiraError):
    """A value has more bytes than its limit."""

    code = "too-large"
    status = 413

    def __init__(self, field: str, limit: int) -> None:
        super().__init__(field=field, limit=limit)


class TooManyFiles(TooLarge):
    """A job stores more result files than a job may store."""

    code = "too-many-files"

    def __init__(self, most: int) -> None:
        EsteiraError.__init__(self, field="files", most=most)


class StateConflict(EsteiraError):
    code = "state-conflict"
    status = 409

    def __init__(self, job_id: object, state: str, action: str) -> None:
        super().__init__(job=job_id, state=state, action=action)
        self.state = state


class SecretsRemoved(StateConflict):
    """A cancelled or expired job whose secret parameters were removed when it ended."""

    code = "secrets-removed"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(job_id, state, "retried")


class UniqueConflict(EsteiraError):
    code = "unique-conflict"
    status = 409

    def __init__(self, key: str, job_id: object = None) -> None:
        """Leave `job_id` out if the caller may not see the job that holds the key."""
        wording = "" if job_id else "unique-conflict.hidden-job"
        super().__init__(wording, field="unique", key=key, job=job_id)
        self.key, self.job_id = key, job_id


class UniqueInProgress(UniqueConflict):
    """Another transaction submits a job with this key now, and has not ended yet."""

    code = "unique-in-progress"

    def __init__(self, keys: Sequence[str]) -> None:
        wording = "unique-in-progress.several" if len(keys) > 1 else ""
        EsteiraError.__init__(self, wording, field="unique", keys=keys)
        self.key, self.job_id = "", None


class Held(EsteiraError):
    """Another transaction locks this row for longer than a request should wait."""

    code = "held"
    status = 409

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(kind=kind, name=name)


class NotFound(EsteiraError):
    code = "not-found"
    status = 404

    def __init__(self, kind: str, name: object, wording: str = "", **more: Any) -> None:
        super().__init__(wording, kind=kind, name=name, **more)


class IdempotencyMismatch(EsteiraError):
    """The Idempotency-Key was used before with another request body."""

    code = "idempotency-mismatch"
    status = 422


class IdempotencyInProgress(EsteiraError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency-in-progress"
    status = 409


class FilesFull(EsteiraError):
    """The space for files (FILES_MAX_TOTAL) is used up."""

    code = "files-full"
    status = 507


class TooManyRequests(EsteiraError):
    """An account or an address sends more requests, or submits more, than its limit allows."""

    code = "too-many-requests"
    status = 429

    def __init__(self, wording: str = "", *, retry_after_s: int) -> None:
        super().__init__(wording, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class QuotaFull(EsteiraError):
    """The uploads of one account use all the space that FILES_MAX_PER_ACCOUNT allows."""

    code = "files-quota"
    status = 507

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(used_mib=used / 1024**2, limit_mib=limit / 1024**2)


class FileInUse(EsteiraError):
    """A job that has not ended, or a schedule, names this file."""

    code = "file-in-use"
    status = 409

    def __init__(self, file_id: object, kind: Literal["job", "schedule"], name: object = None) -> None:
        """Leave `name` out if the caller may not see the job or the schedule."""
        wording = f"file-in-use.{kind}" if name else f"file-in-use.hidden-{kind}"
        super().__init__(wording, file=file_id, name=name)


class TooSlow(EsteiraError):
    """The database could not search the jobs in time."""

    code = "search-too-slow"
    status = 503

    def __init__(self, narrower: Sequence[str] = ()) -> None:
        super().__init__("search-too-slow.narrower" if narrower else "", narrower=narrower)


class DatabaseAway(EsteiraError):
    """The database does not answer; nothing was stored. Try again in a few seconds."""

    code = "database-away"
    status = 503


def _cut(name: object) -> str:
    """Quote a given value, shortened; it may be as long as a request's body."""
    said = repr(name)
    return said if len(said) <= 130 else f"{said[:127]}…"


def escaped(part: int | str) -> str:
    """Write a name as a part of a JSON Pointer."""
    return str(part).replace("~", "~0").replace("/", "~1")
