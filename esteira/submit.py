"""T1: from a request to a stored job, and a hint once the caller's transaction has committed.

The row is the outbox entry: if the process dies at any line below, either nothing was accepted, or the keeper finds the
row and publishes it. All mistakes of a caller are refused before the first row is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from esteira import ids
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
    mistakes,
)
from esteira.files.uploads import may_name
from esteira.job_types.checking import check
from esteira.job_types.parameters import MayName
from esteira.job_types.registry import JobType, registry
from esteira.job_types.request import PRIORITIES, SubmitRequest, Submitted
from esteira.job_types.unique_key import unique_key
from esteira.record.insert import SLICE, NewJob, holder, insert
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
    known = Known(queues=set(known_queues()), files=files or may_name(None))
    checked = _all_checked(requests, by, account, known)
    slices = iter(checked)
    answers: list[Submitted] = []
    while part := list(islice(slices, SLICE)):
        answers += _store(part)
    return answers


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    job: NewJob
    on_conflict: str


def _store(part: list[_Checked]) -> list[Submitted]:
    db, jobs = DjangoConnection(), [one.job for one in part]
    fast = _fast_lists(db, jobs)
    for job in jobs:
        job.publish = (job.queue, job.priority) in fast
    with _one_transaction(db, jobs):
        stored = insert(db, jobs)
        answers = [
            Submitted(id=one.job.id) if one.job.id in stored else _in_place_of(db, one, stored)
            for one in part
        ]
        now = [job for job in jobs if stored.get(job.id)]
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


def _fast_lists(db: Db, jobs: Sequence[NewJob]) -> set[tuple[str, int]]:
    """Find the lists that take hints now; other jobs wait for the keeper, behind those that wait already."""
    if not publisher.fast.available():
        return set()
    typical.refresh(db, jobs)
    return {
        (queue, number)
        for queue in {job.queue for job in jobs}
        for number in publisher.fast.open_to_new(queue)
    }


def _publish(jobs: list[NewJob]) -> None:
    publisher.fast.send(hints(jobs, typical))


def _in_place_of(db: Db, one: _Checked, stored: dict[UUID, bool]) -> Submitted:
    """Return the job that holds the unique key instead of the new one, or raise an error."""
    key = one.job.unique_key
    for _ in range(UNIQUE_TRIES):
        held_by = holder(db, key or "")
        if held_by is not None:
            if one.on_conflict == "error":
                raise UniqueConflict(_without_type(key or ""), held_by)
            return Submitted(id=held_by, deduplicated=True)
        again = insert(db, [one.job])
        if one.job.id in again:
            stored.update(again)
            return Submitted(id=one.job.id)
    raise UniqueConflict(_without_type(key or ""))


@dataclass(frozen=True, kw_only=True)
class Known:
    """The facts that requests are checked against: the existing queues, and the files that the caller may name."""

    queues: Collection[str]
    files: MayName


def refusals(request: SubmitRequest, known: Known | None = None) -> list[EsteiraError]:
    """Find all mistakes in a request, each as the error that is raised if it is the only one."""
    known = known or Known(queues=set(known_queues()), files=may_name(None))
    looks: list[Callable[[], object]] = [
        lambda: _type_and_params(request, known.files),
        lambda: _queue(request.queue, known.queues),
        *request.checks(),
    ]
    found: list[EsteiraError] = []
    for look in looks:
        try:
            look()
        except EsteiraError as error:
            found.append(error)
    return found


def _all_checked(
    requests: Iterable[SubmitRequest], by: str, account: str | None, known: Known
) -> list[_Checked]:
    """Check every request, also after one is refused, so that a caller can correct all mistakes at once."""
    checked: list[_Checked] = []
    refused: dict[int, EsteiraError] = {}
    for n, request in enumerate(requests):
        try:
            checked.append(_read(request, by, account, known))
        except EsteiraError as error:
            # `_read` stops at the first mistake, because every job goes through it.
            refused[n] = together(refusals(request, known) or [error])
            if len(refused) == MOST_REFUSED:
                break
    if len(refused) == 1:
        [(n, only)] = refused.items()
        if n or checked:
            only.add_note(f"in request {n}, counted from 0")
        raise only
    if refused:
        raise InvalidRequest([_of_request(n, mistake) for n, e in refused.items() for mistake in mistakes(e)])
    return checked


def together(found: Sequence[EsteiraError]) -> EsteiraError:
    """Return the only error, or one error that contains all."""
    if len(found) == 1:
        return found[0]
    return InvalidRequest([mistake for error in found for mistake in mistakes(error)])


def _of_request(n: int, mistake: dict[str, Any]) -> dict[str, Any]:
    return {**mistake, "pointer": f"#/{n}{mistake['pointer'].removeprefix('#')}"}


def _read(request: SubmitRequest, by: str, account: str | None, known: Known) -> _Checked:
    job_type, text, key = _type_and_params(request, known.files)
    _queue(request.queue, known.queues)
    chosen = request.options()
    if request.unique is not None:
        key = f"{job_type.name}:{request.unique}"
    job = new_job(job_type, text, unique_key=key, chosen=chosen, by=by, account=account)
    return _Checked(job=job, on_conflict=request.on_conflict)


def new_job(
    job_type: JobType,
    params: str,
    *,
    unique_key: str | None,
    by: str,
    chosen: Mapping[str, Any] | None = None,
    **more: Any,
) -> NewJob:
    """Make a job from checked parts, ready to store; the job type decides every option that `chosen` leaves out."""
    option = (chosen or {}).get
    return NewJob(
        id=ids.uuid7(),
        type=job_type.name,
        params=params,
        queue=option("queue") or job_type.queue,
        priority=PRIORITIES[option("priority") or job_type.priority],
        max_failures=job_type.max_tries,
        backoff_s=job_type.backoff_s,
        lease_s=job_type.lease_s or settings.ESTEIRA_LEASE_SECONDS,
        timeout_s=job_type.timeout_s,
        delay_s=option("delay"),
        run_at=option("run_at"),
        expires_in_s=option("expires_in"),
        unique_key=unique_key,
        by=by,
        **more,
    )


def _type_and_params(request: SubmitRequest, files: MayName) -> tuple[JobType, str, str | None]:
    """Return the type, the parameters as they are stored, and the unique key by the type's own template."""
    job_type = registry.get(request.type)
    params, text = check(job_type.model, request.params, may_name=files)
    return job_type, text, unique_key(job_type, params) if request.unique is None else None


def _queue(name: str | None, queues: Collection[str]) -> str | None:
    if name is not None and (not isinstance(name, str) or name not in queues):
        raise UnknownQueue(name, sorted(queues))
    return name


def _without_type(key: str) -> str:
    return key.split(":", 1)[-1]
