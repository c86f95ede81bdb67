"""T1: from a request to a stored job, and a hint once the caller's transaction has committed.

The row is the outbox entry: if the process dies at any line below, either nothing was accepted or the keeper finds the
row and feeds it. Everything a caller can get wrong is refused before the first row is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from esteira import bounds, ids, publish
from esteira.db import Db, Orm
from esteira.depth import Typical, hints, known_queues
from esteira.errors import InvalidOption, UniqueConflict, UniqueInProgress, UnknownQueue
from esteira.params import MayName, check
from esteira.patience import PATIENCE_S, waiting_at_most
from esteira.record.insert import SLICE, NewJob, holder, insert
from esteira.registry import PRIORITIES, JobType, SubmitRequest, Submitted, registry
from esteira.spoken import said
from esteira.uploads import may_name

#: A holder of a unique key may end between the insert and the look for it; then the insert is tried again.
UNIQUE_TRIES = 5

typical = Typical()


def submit(
    requests: Iterable[SubmitRequest], *, by: str = "", files: MayName | None = None
) -> list[Submitted]:
    """Store jobs and hint at them after commit; answers stand in the order of the requests.

    Inside a caller's transaction the jobs belong to it. Without one, each slice of 1,000 commits by itself; all
    requests are checked before the first slice is stored. `files` says which files parameters may name; without it any
    that is there. Raises UnknownJobType, InvalidParameters, InvalidOption,
    UnknownQueue, TooLarge, or UniqueConflict (`on_conflict="error"`, or another transaction is submitting the key now).
    """
    bounds.BY.check("by", by)
    queues = set(known_queues())
    look = files or may_name(None)
    checked = [_checked(request, by, queues, look) for request in requests]
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
    db, jobs = Orm(), [one.job for one in part]
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
    """Open a transaction if there can be more than one statement to it, or if a caller's must survive an error.

    An open transaction of somebody else may hold a unique key, and is not waited for without limit.
    """
    keys = [_without_type(job.unique_key) for job in jobs if job.unique_key]
    if keys:
        return waiting_at_most(db, PATIENCE_S, lambda: UniqueInProgress(keys))
    return nullcontext() if transaction.get_autocommit() else db.transaction()


def _fast_lists(db: Db, jobs: Sequence[NewJob]) -> set[tuple[str, int]]:
    """Find the lists that take hints right away; the rest waits for the keeper, behind what waits there already."""
    if not publish.fast.available():
        return set()
    typical.refresh(db, jobs)
    return {
        (queue, number) for queue in {job.queue for job in jobs} for number in publish.fast.open_to_new(queue)
    }


def _publish(jobs: list[NewJob]) -> None:
    publish.fast.send(hints(jobs, typical))


def _in_place_of(db: Db, one: _Checked, stored: dict[UUID, bool]) -> Submitted:
    """Answer for a job whose unique key is held: by the holder, or by an error."""
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


def _checked(request: SubmitRequest, by: str, queues: set[str], files: MayName) -> _Checked:
    kind = registry.get(request.type)
    params, text = check(kind.model, request.params, may_name=files)
    queue = request.queue or kind.queue
    if not isinstance(queue, str) or queue not in queues:
        raise UnknownQueue(queue, sorted(queues))
    if request.on_conflict not in ("return", "error"):
        raise InvalidOption(
            "on_conflict", f"must be return or error, not {bounds.shown(request.on_conflict)}."
        )
    if request.run_at is not None and request.delay_s is not None:
        raise InvalidOption("run_at", "cannot be combined with a delay; give one of them.")
    job = NewJob(
        id=ids.uuid7(),
        type=kind.name,
        params=text,
        queue=queue,
        priority=_priority(request.priority or kind.priority),
        max_failures=kind.retries + 1,
        backoff_s=kind.backoff_s,
        lease_s=kind.lease_s or settings.LEASE_SECONDS,
        timeout_s=kind.timeout_s,
        delay_s=None if request.delay_s is None else bounds.DELAY.check("delay", request.delay_s),
        run_at=None if request.run_at is None else bounds.moment("run_at", request.run_at),
        expires_in_s=None
        if request.expires_in_s is None
        else bounds.EXPIRES_IN.check("expires_in", request.expires_in_s),
        unique_key=unique_key(kind, params) if request.unique is None else _key(kind, request.unique),
        by=by,
    )
    return _Checked(job=job, on_conflict=request.on_conflict)


def _priority(name: str) -> int:
    if not isinstance(name, str) or name not in PRIORITIES:
        raise InvalidOption("priority", f"must be one of {', '.join(PRIORITIES)}, not {bounds.shown(name)}.")
    return PRIORITIES[name]


def unique_key(kind: JobType, params: Any) -> str | None:
    """Return the key that a type's own template makes of checked parameters; raises InvalidOption."""
    if not kind.unique:
        return None
    try:
        key = kind.unique.format_map(dict(params))
    except (
        Exception
    ) as error:  # a parameter's own formatting runs here, and may refuse the value: {day:%Y} of None
        raise InvalidOption("unique", f"{kind.unique!r} cannot be filled in: {said(error)}.") from None
    return _key(kind, key)


def _key(kind: JobType, key: str) -> str:
    """Two types never meet in one key."""
    return f"{kind.name}:{bounds.UNIQUE.check('unique', key)}"


def _without_type(key: str) -> str:
    return key.split(":", 1)[-1]
