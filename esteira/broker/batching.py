"""Decide how many jobs go into one hint, and how many into Redis: by measured run times, not by settings.

A message costs a worker about a millisecond, so short jobs share a hint when many wait: as many as fit into 200 ms, at
most 125. A job goes alone if its type has too few measurements, if it needs its own transaction, or if its process died
while it ran in a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol
from uuid import UUID

from django.conf import settings

from esteira.broker.hint import FRONT, Hint
from esteira.db import Db
from esteira.errors import UnknownJobType
from esteira.job_types.registry import HARD_AFTER_S, registry
from esteira.stats import MEASURED

BATCH_S = 0.2
BATCH_MAX = 125
#: A queue is short while one hint would take more than this share of it: then latency matters, and each job goes alone.
SHARE = 8
CACHE_S = 10.0
#: The shorter lifetime of the cache while a long list contains a type without measurements.
IMPATIENT_CACHE_S = 0.5


class Published(Protocol):
    """A stored job whose hint must be published."""

    @property
    def id(self) -> UUID: ...
    @property
    def type(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def solo(self) -> bool: ...
    @property
    def front(self) -> bool: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def task(self) -> Mapping[str, str] | None: ...


class Typical:
    """The mean run time of each job type in its latest hour, in seconds; read every 10 s, sooner if one is missing."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._read = float("-inf")

    def refresh(self, db: Db, published: Sequence[Published]) -> None:
        """Read the run times again if they are old and these jobs may be batched."""
        if _largest(published) <= 1:
            return
        missed = any(
            name not in self._seconds and not _alone(name) for name in {job.type for job in published}
        )
        if time.monotonic() - self._read < (IMPATIENT_CACHE_S if missed else CACHE_S):
            return
        rows = db.fetch(
            """SELECT type, sum(sum_ms) / sum(n) / 1000 FROM esteira_stat
               WHERE minute > clock_timestamp() - interval '1 hour' AND state = 'succeeded'
               GROUP BY type HAVING sum(n) >= %s""",
            [MEASURED],
        )
        # A type that did not run for an hour keeps its last run time, so a nightly burst starts in batches.
        self._seconds.update({row[0]: float(row[1]) for row in rows})
        self._read = time.monotonic()

    def batch_size(self, name: str) -> int:
        """Return how many jobs of a type fit into one hint."""
        seconds = self._seconds.get(name)
        if seconds is None or _alone(name):
            return 1
        return int(min(BATCH_MAX, max(1.0, BATCH_S / max(seconds, 1e-6))))


def _alone(name: str) -> bool:
    try:
        return registry.get(name).goes_alone
    except UnknownJobType:  # another release's type, whose needs only its worker knows
        return True


def hints(published: Sequence[Published], typical: Typical) -> Iterator[Hint]:
    """Put stored jobs into hints, most urgent first."""

    def where(job: Published) -> tuple[int, str, str, bool]:
        return FRONT if job.front else job.priority, job.queue, job.type, job.solo

    for (number, queue, name, solo), group in groupby(sorted(published, key=where), key=where):
        jobs = list(group)
        size = 1 if solo else min(typical.batch_size(name), _largest(jobs))
        for part in _cut(jobs, size):
            yield Hint(
                type=name,
                queue=queue,
                list=number,
                ids=[job.id for job in part],
                hard_limit_s=max(job.timeout_s for job in part) + HARD_AFTER_S,
                task=part[0].task,
            )


def _largest(jobs: Sequence[Published]) -> int:
    """Return how many jobs of a list one hint may take at most."""
    return max(1, len(jobs) // SHARE)


def _cut(jobs: Sequence[Published], size: int) -> Iterable[Sequence[Published]]:
    return (jobs[i : i + size] for i in range(0, len(jobs), size))


def known_queues() -> list[str]:
    """Return the queues that workers of this release read."""
    return sorted({*registry.queues(), *settings.JOB_QUEUES})
