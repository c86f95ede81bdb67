"""Decide how many jobs go into one hint, and how many into Redis: by measured run times, not by settings.

A message costs a worker about a millisecond, so short jobs share a hint when many wait: as many as fit into 200 ms, at
most 250. A job goes alone if it needs its own transaction, or if its process died while it ran in a batch.

Jobs of a type that never ran share hints for its first seconds, because their first runs tell how long it takes. If
that guess is wrong, the process hands back all jobs of a hint but the first after 0.25 s (`esteira.runner.heartbeat`).
A type of which no run succeeds in that time goes alone afterwards.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Protocol
from uuid import UUID

from django.conf import settings

from esteira.broker.hint import FRONT, Hint
from esteira.db import Db
from esteira.errors import UnknownJobType
from esteira.job_types.registry import HARD_AFTER_S, registry
from esteira.stats import MEASURED

BATCH_S = 0.2
BATCH_MAX = 250
#: A queue is short while one hint would take more than this share of it: then latency matters, and each job goes alone.
SHARE = 8
#: A hint may take a larger share while its jobs take less than this together.
QUICK_S, QUICK_SHARE = 0.025, 4
CACHE_S = 10.0
#: The shorter lifetime of the cache while a long list contains a type without enough measurements.
IMPATIENT_CACHE_S = 0.25
#: How many jobs share a hint without enough measurements, and for how long without any.
GUESS_MAX, GUESS_S = 50, 2.0


#: The list, queue, type and `solo` that the jobs of a hint share.
_Where = tuple[int, str, str, bool]


class Typed(Protocol):
    """A job that is to be published."""

    @property
    def type(self) -> str: ...


class Published(Protocol):
    """A stored job whose hint must be published, or what several of them have in common."""

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


# A type that did not run in the latest hour has the mean of all its runs.
_RUN_TIMES = """
WITH latest AS (
  SELECT type, sum(n) AS n, sum(sum_ms) AS ms FROM esteira_stat
  WHERE minute > clock_timestamp() - interval '1 hour' AND state = 'succeeded'
  GROUP BY type HAVING sum(n) >= %(enough)s),
ever AS (
  SELECT type, sum(n) AS n, sum(sum_ms) AS ms FROM esteira_stattotal WHERE state = 'succeeded' GROUP BY type)
SELECT type, n, ms / n / 1000, true FROM latest
UNION ALL
SELECT type, n, ms / n / 1000, false FROM ever WHERE n > 0 AND type NOT IN (SELECT type FROM latest)"""


class Typical:
    """The mean run time of each job type in its latest hour, in seconds; read every 10 s, sooner if one is missing."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        #: The same for types with too few runs, and since when each type without any waits for its first one.
        self._few: dict[str, float] = {}
        self._guessed: dict[str, float] = {}
        self._read = float("-inf")

    def refresh(self, db: Db, published: Sequence[Typed]) -> None:
        """Read the run times again if they are old and these jobs may be batched."""
        if _largest(len(published)) <= 1:
            return
        now, names = time.monotonic(), {job.type for job in published}
        missed = [name for name in names if name not in self._seconds and not _alone(name)]
        for name in missed:
            self._guessed.setdefault(name, now)
        if now - self._read < (IMPATIENT_CACHE_S if missed else CACHE_S):
            return
        self._few = {}
        for name, runs, seconds, latest in db.fetch(_RUN_TIMES, {"enough": MEASURED}):
            if latest:
                self._seconds[name] = float(seconds)
            elif runs >= MEASURED:  # what this process has read in an earlier hour is younger
                self._seconds.setdefault(name, float(seconds))
            else:
                self._few[name] = float(seconds)
        self._read = now

    def batch_size(self, name: str) -> int:
        """Return how many jobs of a type fit into one hint."""
        if _alone(name):
            return 1
        if name in self._seconds:
            return _fit(self._seconds[name], BATCH_MAX)
        if name in self._few:
            return _fit(self._few[name], GUESS_MAX)
        return GUESS_MAX if time.monotonic() - self._guessed.get(name, float("-inf")) < GUESS_S else 1

    def quick_share(self, name: str, jobs: int) -> int:
        """Return how many of so many jobs one hint may take because they are over so soon; 0 if that is not known."""
        seconds = self._seconds.get(name)
        return 0 if seconds is None else min(jobs // QUICK_SHARE, int(QUICK_S / max(seconds, 1e-6)))


def _fit(seconds: float, most: int) -> int:
    return int(min(most, max(1.0, BATCH_S / max(seconds, 1e-6))))


def _alone(name: str) -> bool:
    try:
        return registry.get(name).goes_alone
    except UnknownJobType:  # another release's type, whose needs only its worker knows
        return True


def hints(groups: Iterable[tuple[Published, Sequence[UUID]]], typical: Typical) -> Iterator[Hint]:
    """Put stored jobs into hints, most urgent first; a group is what its jobs have in common, and their ids."""
    alike = defaultdict[_Where, list[tuple[Published, Sequence[UUID]]]](list)
    for job, ids in groups:
        number = FRONT if job.front else job.priority
        alike[number, job.queue, job.type, job.solo].append((job, ids))
    for (number, queue, name, solo), parts in sorted(alike.items(), key=itemgetter(0)):
        jobs = [one for _, ids in parts for one in ids]
        tasks = {ids[0]: job.task for job, ids in parts if job.task}
        limit = max(job.timeout_s for job, _ in parts) + HARD_AFTER_S
        most = _largest(len(jobs))
        if most > 1:
            most = max(most, typical.quick_share(name, len(jobs)))
        size = 1 if solo or most == 1 else min(typical.batch_size(name), most)
        for at in range(0, len(jobs), size):
            some, task = jobs[at : at + size], tasks.get(jobs[at]) if tasks else None
            yield Hint(type=name, queue=queue, list=number, ids=some, hard_limit_s=limit, task=task)


def _largest(jobs: int) -> int:
    """Return how many jobs of a list one hint may take at most."""
    return max(1, jobs // SHARE)


def known_queues() -> list[str]:
    """Return the queues that workers of this release read."""
    return sorted({*registry.queues(), *settings.ESTEIRA_JOB_QUEUES})
