"""Many writers at once: lists lock their rows in one order, so none waits for another in a circle."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from esteira.db import PrivateConnection
from esteira.record.claim import claim, expire, unpublish_unclaimed
from esteira.record.finish import finish
from esteira.record.lease import extend, hand_back
from esteira.record.operate import cancel, retry
from esteira.record.rescue import leases_ended, process_lost
from esteira.record.waiting import publish_due
from tests.support.jobs import TYPE, outcome, stored

WRITERS, ROUNDS = 6, 60


def test_lists_written_by_many_at_once_meet_no_deadlock(core: PrivateConnection) -> None:
    jobs = stored(core, 200, lease_s=1)
    before = deadlocks(core)

    with ThreadPoolExecutor(WRITERS) as pool:
        for writer in [pool.submit(write_at_random, jobs, seed) for seed in range(WRITERS)]:
            writer.result()

    assert deadlocks(core) == before


def write_at_random(jobs: list[UUID], seed: int) -> None:
    chance, core = random.Random(seed), PrivateConnection(f"writer {seed}", timeout_s=30)

    def some() -> list[UUID]:
        return chance.sample(jobs, 40)

    def held() -> list[tuple[UUID, int]]:
        rows = core.fetch(
            "SELECT id, attempt FROM esteira_job WHERE state = 'running' AND id = ANY(%s)", [some()]
        )
        return [(one, attempt) for one, attempt in chance.sample(rows, len(rows))]

    def finish_some() -> None:
        claimed = claim(core, some()[:10], worker="w", delivery=f"d{seed}")
        finish(
            core, [outcome(job, chance.choice(["succeeded", "failed", "cancelled"])) for job in claimed[::-1]]
        )

    def retry_some() -> None:
        for job in some()[:10]:
            retry(core, job, by="ana")

    moves: list[Callable[[], object]] = [
        lambda: publish_due(core, queue="default", types=[TYPE], priorities=[6], limit=50),
        lambda: claim(core, some(), worker=f"w{seed}", delivery=f"d{seed}"),
        lambda: extend(core, held()),
        lambda: hand_back(core, held()),
        lambda: unpublish_unclaimed(core, some()),
        lambda: leases_ended(core),
        lambda: process_lost(core, f"d{chance.randrange(WRITERS)}"),
        lambda: cancel(core, chance.choice(jobs), by="ana", force=False),
        lambda: expire(core),
        finish_some,
        retry_some,
    ]
    try:
        for _ in range(ROUNDS):
            chance.choice(moves)()
    finally:
        core.close()


def deadlocks(core: PrivateConnection) -> int:
    core.fetch("SELECT pg_stat_force_next_flush()")
    return int(core.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0][0])


def test_of_many_that_claim_the_same_jobs_exactly_one_gets_each(core: PrivateConnection) -> None:
    jobs, start = stored(core, 300), threading.Barrier(WRITERS)

    def take(number: int) -> list[UUID]:
        own = PrivateConnection(f"claimer {number}")
        order = random.Random(number).sample(jobs, len(jobs))
        start.wait()
        try:
            return [
                c.id
                for i in range(0, 300, 10)
                for c in claim(own, order[i : i + 10], worker="w", delivery="d")
            ]
        finally:
            own.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        taken = Counter(one for ids in pool.map(take, range(WRITERS)) for one in ids)

    assert taken == Counter(jobs)
    assert core.fetch("SELECT DISTINCT attempt FROM esteira_job") == [(1,)]


def test_of_many_that_finish_one_attempt_exactly_one_end_is_recorded(core: PrivateConnection) -> None:
    (job,) = claim(core, stored(core), worker="w", delivery="d")
    start = threading.Barrier(WRITERS)

    def end(number: int) -> str | None:
        own = PrivateConnection(f"finisher {number}")
        start.wait()
        try:
            ended = outcome(job, ["succeeded", "given_up"][number % 2])
            # "running" means that another writer has locked the row: a process then tries again.
            answers = iter(lambda: finish(own, [ended]).get(job.id), object())
            return next(answer for answer in answers if answer != "running")
        finally:
            own.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = set(pool.map(end, range(WRITERS)))

    state = core.fetch("SELECT state FROM esteira_job")[0][0]
    assert answers == {state, None}
