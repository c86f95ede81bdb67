"""What a test does with jobs: look at what was submitted, run what is due, let time pass, run everything at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from esteira.db import DjangoConnection
from esteira.job_types.registry import registry
from esteira.job_types.request import SubmitRequest, Submitted
from esteira.models import Job
from esteira.record.claim import expire
from esteira.record.passing import let_pass
from esteira.submit import submit
from esteira.testing.attempts import TestRunner

#: A job that submits itself, or is refused by its own signature, would go on for ever.
MOST_RUNS = 1000
_DUE = """SELECT j.id FROM esteira_job j
  WHERE j.state = 'queued' AND greatest(j.run_at, j.hold_until) <= clock_timestamp()
    AND NOT j.id = ANY(%(without)s::uuid[])
  ORDER BY j.priority, j.run_at, j.id LIMIT 1"""
_WAIT = """SELECT extract(epoch FROM min(greatest(j.run_at, j.hold_until)) - clock_timestamp())::float8
  FROM esteira_job j WHERE j.state = 'queued' AND NOT j.id = ANY(%(without)s::uuid[])"""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A submitted job, with its options as they are stored; `delay` is from the submit to the first run."""

    id: UUID
    type: str
    params: dict[str, Any]
    queue: str
    priority: str
    delay: timedelta
    expires_in: timedelta | None
    unique: str | None


class TestJobs:
    """The jobs of one test."""

    __test__ = False  # pytest would collect a class of this name

    def __init__(self) -> None:
        self._db, self._runner = DjangoConnection(), TestRunner()

    @property
    def submitted(self) -> list[Sent]:
        """All jobs that were submitted, in their order, whether they have run or not."""
        return [_sent(job) for job in Job.objects.order_by("created_at", "id")]

    def job(self, submitted: Submitted | Sent) -> Job:
        """Return the row of a job: its state, result, error, failures and files."""
        return Job.objects.get(pk=submitted.id)

    def run_due(self) -> list[Job]:
        """Run every job that is due, also those that are submitted meanwhile; return them as they are afterwards.

        A job that failed and has tries left is due again after its pause, and not before.
        """
        ran: list[UUID] = []
        without: set[UUID] = set()
        expire(self._db)
        while rows := self._db.fetch(_DUE, {"without": list(without)}):
            if len(ran) == MOST_RUNS:
                raise AssertionError(f"{MOST_RUNS} jobs ran and others are due: does a job submit itself?")
            if self._runner.run(rows[0][0]):
                ran.append(rows[0][0])
            else:  # its queue is paused, or another job of its schedule runs
                without.add(rows[0][0])
        found = Job.objects.in_bulk(set(ran))
        return [found[one] for one in dict.fromkeys(ran)]

    def run_all(self) -> list[Job]:
        """Run what is due, then let time pass until the next job is due, until no job waits."""
        ran = self.run_due()
        for _ in range(MOST_RUNS):
            wait_s = self._db.fetch(_WAIT, {"without": self._paused()})[0][0]
            if wait_s is None:
                return list({job.pk: job for job in ran}.values())
            self.advance(seconds=max(0.0, wait_s))
            ran += self.run_due()
        raise AssertionError(f"Jobs still wait after {MOST_RUNS} pauses: does a job submit itself?")

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass for the jobs that wait: their moments come closer, and the database's clock stays as it is."""
        span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if span < timedelta():
            raise ValueError("advance: time passes forwards only; give a positive duration.")
        let_pass(self._db, span.total_seconds())

    @contextmanager
    def inline(self) -> Iterator[None]:
        """Run each job at its submit, if it is due; inside a transaction of the tested code, after its commit."""

        def submit_and_run(requests: Iterable[SubmitRequest], **more: Any) -> list[Submitted]:
            answers = submit(requests, **more)
            if _is_in_a_transaction_of_the_code():
                transaction.on_commit(self.run_due)
            else:
                self.run_due()
            return answers

        registry.install(submit_and_run)
        try:
            yield
        finally:
            registry.install(submit)

    def _paused(self) -> list[UUID]:
        """Return the due jobs that cannot run: time does not help them."""
        return [row[0] for row in self._db.fetch(_DUE.replace("LIMIT 1", ""), {"without": []})]


def _is_in_a_transaction_of_the_code() -> bool:
    """Return whether another transaction is open than the one in which Django's test case wraps a test."""
    blocks: list[Any] = connection.atomic_blocks
    return bool(blocks) and not blocks[-1]._from_testcase


def _sent(job: Job) -> Sent:
    unique = job.unique_key and job.unique_key.split(":", 1)[-1]
    return Sent(
        id=job.pk,
        type=job.type,
        params=job.params,
        queue=job.queue,
        priority=job.priority_name,
        delay=max(timedelta(), job.run_at - job.created_at),
        expires_in=job.expires_at - job.created_at if job.expires_at else None,
        unique=unique,
    )
