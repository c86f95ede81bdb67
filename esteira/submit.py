"""T1: from a request to a stored job, and a hint once the caller's transaction has committed.

The row is the outbox entry: if the process dies at any line below, either nothing was accepted, or the keeper finds the
row and publishes it. All mistakes of a caller are refused before the first row is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice, repeat
from operator import attrgetter, is_, itemgetter
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from esteira.broker import publisher
from esteira.broker.batching import Typical, hints, known_queues
from esteira.db import Db, DjangoConnection
from esteira.db.patience import PATIENCE_S, waiting_at_most
from esteira.errors import (
    EsteiraError,
    InvalidRequest,
    UniqueConflict,
    UniqueInProgress,
    UnknownQueue,
)
from esteira.files.uploads import may_name
from esteira.job_types.checking import check
from esteira.job_types.parameters import MayName
from esteira.job_types.registry import JobType, registry
from esteira.job_types.request import OPTIONS, PRIORITIES, Alike, SubmitRequest, Submitted
from esteira.job_types.unique_key import unique_key
from esteira.record.insert import SLICE, Choices, NewJob, holder, insert
from esteira.values import bounds

#: The job that holds a unique key may end between the insert and the query for it; then the insert is repeated.
UNIQUE_TRIES = 5
#: The largest number of refused requests that one error reports; more mistakes are usually the same mistake.
MOST_REFUSED = 100

typical = Typical()


def submit(
    requests: Iterable[SubmitRequest],
    *,
    by: str = "",
    account: str | None = None,
    files: MayName | None = None,
) -> list[Submitted]:
    """Store jobs, and send their hints after the commit; the answers are in the order of the requests.

    Inside a caller's transaction the jobs belong to it. Without one, each slice of 1,000 commits by itself; all
    requests are checked before the first slice is stored. `by` names the submitter in a text, `account` is the account
    that owns the jobs, if any. `files` decides which files parameters may name; without it, any stored file. Raises
    UnknownJobType, InvalidParameters, InvalidOption, UnknownQueue or TooLarge, InvalidRequest for mistakes of more than
    one kind, or UniqueConflict (`on_conflict="error"`, or another transaction is submitting the key now).
    """
    bounds.BY.check("by", by)
    known = Known(files=files or may_name(None))
    slices = iter(_all_checked(requests, by, account, known))
    answers: list[Submitted] = []
    while part := list(islice(slices, SLICE)):
        answers += _store(part)
    return answers


def _store(part: list[_Checked]) -> list[Submitted]:
    db = DjangoConnection()
    jobs = [NewJob(*one) for one in part]
    _choose_hints(db, jobs)
    with _one_transaction(db, jobs):
        stored = insert(db, jobs)
        answers = [Submitted(job.id) if job.id else _in_place_of(db, job, stored) for job in jobs]
        now = [(job.choices, job.id) for job in jobs if job.id and stored[job.id]]
        if now:
            transaction.on_commit(lambda: _publish(now), robust=True)
    return answers


def _one_transaction(db: Db, jobs: Sequence[NewJob]) -> AbstractContextManager[object]:
    """Open a transaction if several statements are possible, or if a caller's transaction must survive an error.

    Another open transaction may hold a unique key; the wait for it is limited.
    """
    keys = [_without_type(job.unique_key) for job in jobs if job.unique_key]
    if keys:
        return waiting_at_most(db, PATIENCE_S, lambda: UniqueInProgress(keys))
    return nullcontext() if transaction.get_autocommit() else db.transaction()


def _choose_hints(db: Db, jobs: Sequence[NewJob]) -> None:
    """Let jobs have hints now if their list takes some; the others wait for the keeper, behind those that wait."""
    open_to_new: dict[str, set[int]] = {}
    if publisher.fast.available():
        typical.refresh(db, jobs)
        for queue in {job.choices.queue for job in jobs}:
            open_to_new[queue] = publisher.fast.open_to_new(queue)
    for job in jobs:
        job.choices.publish = job.choices.priority in open_to_new.get(job.choices.queue, ())


def _publish(stored: Iterable[tuple[Choices, UUID]]) -> None:
    alike = groupby(stored, key=itemgetter(0))
    publisher.fast.send(hints(((one, [job_id for _, job_id in some]) for one, some in alike), typical))


def _in_place_of(db: Db, job: NewJob, stored: dict[UUID, bool]) -> Submitted:
    """Return the job that holds the unique key instead of the new one, or raise an error."""
    key = job.unique_key or ""
    for _ in range(UNIQUE_TRIES):
        held_by = holder(db, key)
        if held_by is not None:
            if job.choices.on_conflict == "error":
                raise UniqueConflict(_without_type(key), held_by)
            return Submitted(held_by, deduplicated=True)
        again = insert(db, [job])
        if job.id:
            stored.update(again)
            return Submitted(job.id)
    raise UniqueConflict(_without_type(key))


@dataclass(frozen=True, kw_only=True)
class Known:
    """The facts that requests are checked against: the files that the caller may name, and the existing queues."""

    files: MayName

    @cached_property
    def queues(self) -> Collection[str]:
        return set(known_queues())  # most submits name no queue, so none is looked for


def refusals(request: SubmitRequest, known: Known | None = None) -> list[EsteiraError]:
    """Find all mistakes in a request, each as the error that is raised if it is the only one."""
    known = known or Known(files=may_name(None))
    looks: list[Callable[[], object]] = [
        lambda: _type_and_params(request, known.files),
        lambda: _queue(request.queue, known),
        *request.checks(),
    ]
    found: list[EsteiraError] = []
    for look in looks:
        try:
            look()
        except EsteiraError as error:
            found.append(error)
    return found


#: The choices of a job, its parameters as they are stored, and its unique key.
_Checked = tuple[Choices, str, str | None]
_SHARED = attrgetter("type", *(option.name for option in OPTIONS))


def _all_checked(
    requests: Iterable[SubmitRequest], by: str, account: str | None, known: Known
) -> list[_Checked]:
    """Check every request, also after one is refused, so that a caller can correct all mistakes at once."""
    checked: list[_Checked] = []
    refused: dict[int, EsteiraError] = {}
    reader = _Reader(by, account, known)
    for n, (request, params) in enumerate(_apart(requests)):
        try:
            checked.append(reader.read(request, params))
        except EsteiraError as error:
            # `read` stops at the first mistake, because every job goes through it.
            refused[n] = together(refusals(replace(request, params=params), known) or [error])
            if len(refused) == MOST_REFUSED:
                break
    if len(refused) == 1:
        [(n, only)] = refused.items()
        if n or checked:
            only.add_note(f"in request {n}, counted from 0")
        raise only
    if refused:
        raise InvalidRequest(
            [replace(one, at=(n, *one.at)) for n, error in refused.items() for one in error.mistakes]
        )
    return checked


def _apart(requests: Iterable[SubmitRequest]) -> Iterator[tuple[SubmitRequest, Any]]:
    """Yield each request with its parameters; alike ones are not made, because only one that is refused is needed."""
    if isinstance(requests, Alike):
        return zip(repeat(requests.one), requests.many)
    return ((request, request.params) for request in requests)


class _Reader:
    """Checks one request after the other; the type and the options of alike ones that follow each other once."""

    def __init__(self, by: str, account: str | None, known: Known) -> None:
        self._by, self._account, self._known = by, account, known
        self._before: SubmitRequest | None = None
        self._type: JobType
        self._choices: Choices

    def read(self, request: SubmitRequest, params: Any) -> _Checked:
        """Return a request as it is stored; raises the first mistake."""
        if request is not self._before and not self._is_alike(request):
            self._choose(request)
        checked, text = check(self._type.model, params, may_name=self._known.files)
        if request.unique is None:
            return self._choices, text, unique_key(self._type, checked)
        return self._choices, text, f"{self._type.name}:{request.unique}"

    def _is_alike(self, request: SubmitRequest) -> bool:
        return self._before is not None and all(map(is_, _SHARED(request), _SHARED(self._before)))

    def _choose(self, request: SubmitRequest) -> None:
        self._before = None
        job_type = registry.get(request.type)
        _queue(request.queue, self._known)
        chosen = request.options()
        self._type = job_type
        self._choices = choices_of(job_type, chosen, by=self._by, account=self._account)
        self._before = request


def together(found: Sequence[EsteiraError]) -> EsteiraError:
    """Return the only error, or one error that contains all."""
    if len(found) == 1:
        return found[0]
    return InvalidRequest([mistake for error in found for mistake in error.mistakes])


def choices_of(
    job_type: JobType, chosen: Mapping[str, Any] | None = None, *, by: str, **more: Any
) -> Choices:
    """Return how jobs are stored; the job type decides every option that `chosen` leaves out."""
    option = (chosen or {}).get
    return Choices(
        type=job_type.name,
        queue=option("queue") or job_type.queue,
        priority=PRIORITIES[option("priority") or job_type.priority],
        max_failures=job_type.max_tries,
        backoff_s=job_type.backoff_s,
        lease_s=job_type.lease_s or settings.LEASE_SECONDS,
        timeout_s=job_type.timeout_s,
        delay_s=option("delay"),
        run_at=option("run_at"),
        expires_in_s=option("expires_in"),
        on_conflict=option("on_conflict", "return"),
        by=by,
        **more,
    )


def _type_and_params(request: SubmitRequest, files: MayName) -> tuple[JobType, str, str | None]:
    """Return the type, the parameters as they are stored, and the unique key by the type's own template."""
    job_type = registry.get(request.type)
    params, text = check(job_type.model, request.params, may_name=files)
    return job_type, text, unique_key(job_type, params) if request.unique is None else None


def _queue(name: str | None, known: Known) -> None:
    if name is not None and (not isinstance(name, str) or name not in known.queues):
        raise UnknownQueue(name, sorted(known.queues))


def _without_type(key: str) -> str:
    return key.split(":", 1)[-1]
