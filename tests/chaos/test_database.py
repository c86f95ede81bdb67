"""PostgreSQL restarts and connections break at the worst moment; nothing is lost or done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.invariants import check
from tests.support.load import JOBS, Measured, mixed, outage
from tests.support.proxy import Proxy
from tests.support.stack import Stack

#: How long PostgreSQL is away, in seconds; OUTAGES=3,15 for the long way.
OUTAGES = [float(one) for one in os.environ.get("OUTAGES", "3").split(",")]


@pytest.mark.parametrize("seconds", OUTAGES)
def test_db_restart(stack: Stack, measured: Measured, seconds: float) -> None:
    """Immediate stop, longer than a lease: workers that live keep the jobs they run."""
    stack.worker("w1")
    stack.worker("w2")
    stack.beat()
    ids = mixed(stack)
    long = stack.submit("plain.nap", [{"seconds": seconds + 3}] * 2)
    stack.halfway(ids, "w1", "w2")

    stack.postgres.stop("immediate")
    outage(seconds)
    stack.postgres.start()

    measured(stack.flows_again(), 3.0, f"after {seconds:g} s")
    stack.wait_ended()
    check(stack.db, [*ids, *long], crashed=False)
    again = "SELECT type FROM esteira_job WHERE attempt > 1 AND starts_with(type, 'plain.')"
    assert stack.db.fetch(again) == [], "jobs without effects ran again although their workers lived"


def test_db_restart_while_nobody_works(stack: Stack) -> None:
    """Workers and beats that wait for work find their way back."""
    stack.worker("w1")
    stack.beat()
    ids = mixed(stack, 40)
    stack.wait_ended()

    stack.postgres.stop("immediate")
    outage(1)
    stack.postgres.start()

    ids += mixed(stack, 40)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_every_connection_is_cut_again_and_again(stack: Stack) -> None:
    stack.worker("w1")
    stack.beat()
    ids = mixed(stack, JOBS * 2)
    stack.halfway(ids, "w1")

    for _ in range(5):
        ended = stack.db.counts(ids).get("succeeded", 0)
        stack.db.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
        stack.until(
            lambda ended=ended: (
                stack.db.counts(ids).get("succeeded", 0) > ended or not stack.db.counts().get("queued")
            ),  # type: ignore[misc]
            "jobs end again",
        )

    stack.wait_ended()
    check(stack.db, ids, crashed=False)


@pytest.fixture
def proxied(make_stack: Callable[..., Stack]) -> Iterator[tuple[Stack, Proxy]]:
    stack, proxy = with_proxy(make_stack, LEASE_SECONDS="10")
    yield stack, proxy
    proxy.close()


def with_proxy(make_stack: Callable[..., Stack], **settings: str) -> tuple[Stack, Proxy]:
    """Start a stack whose one worker reaches PostgreSQL through a proxy."""
    stack = make_stack(CONCURRENCY="1", **settings)
    proxy = Proxy(stack.postgres.port)
    address = stack.postgres.url.replace(f":{stack.postgres.port}/", f":{proxy.port}/")
    stack.worker("w1", DATABASE_URL=address)
    stack.beat()
    return stack, proxy


def one_job(stack: Stack, proxy: Proxy, name: str, *words: str, **how: bool) -> tuple[str, int, int, int]:
    """Run one job whose connection is cut; return its state, attempt, failures and suspicion."""
    warm = stack.submit(name, 1)
    stack.wait_ended(warm)
    proxy.arm(*words, **how)

    (job,) = stack.submit(name, 1)
    stack.wait_ended(timeout=40)

    assert proxy.cuts == 1, "the connection was never cut; the test is blunt"
    check(
        stack.db, [*warm, job], crashed=words[-1] == "COMMIT"
    )  # a point for each attempt that has no outcome
    return stack.db.fetch("SELECT state, attempt, failures, suspicion FROM esteira_job WHERE id = %s", [job])[
        0
    ]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["effects.work", "effects.transfer"])
def test_lost_commit_ack(proxied: tuple[Stack, Proxy], name: str) -> None:
    """The commit went through, its answer did not: exactly one effect, and the job does not run again."""
    ended = one_job(*proxied, name, "INSERT INTO effect", "COMMIT", after=True)

    assert ended == ("succeeded", 1, 0, 0)


@pytest.mark.parametrize("name", ["effects.work", "effects.transfer"])
def test_a_commit_that_never_arrived(proxied: tuple[Stack, Proxy], name: str) -> None:
    """Nothing was recorded: the whole attempt runs again, and counts no failure but a point of suspicion."""
    ended = one_job(*proxied, name, "INSERT INTO effect", "COMMIT", after=False)

    assert ended == ("succeeded", 2, 0, 1)


def test_a_transaction_that_the_server_never_sees_end_is_ended_for_it(
    make_stack: Callable[..., Stack], request: pytest.FixtureRequest
) -> None:
    """A silent network keeps a transaction open, and with it the lock on the row: for a lease at most."""
    stack, proxy = with_proxy(make_stack, LEASE_SECONDS="3")
    request.addfinalizer(proxy.close)

    ended = one_job(stack, proxy, "effects.work", "INSERT INTO effect", "COMMIT", half=True)

    assert ended == ("succeeded", 2, 0, 1)


@pytest.mark.parametrize("after", [True, False])
def test_the_end_of_a_job_without_effects_is_written_again(proxied: tuple[Stack, Proxy], after: bool) -> None:
    """Whether or not the first try arrived, the end is recorded once and the job does not run again."""
    ended = one_job(*proxied, "plain.nap", "ended_s", after=after)

    assert ended == ("succeeded", 1, 0, 0)


def test_a_claim_whose_answer_is_lost(proxied: tuple[Stack, Proxy]) -> None:
    """The job is claimed and nobody knows: its lease ends, and it runs."""
    stack, proxy = proxied
    warm = stack.submit("plain.nap", 1)
    stack.wait_ended(warm)
    proxy.arm("delivery =", after=True)

    (job,) = stack.submit("plain.nap", 1)
    stack.wait_ended(timeout=40)

    assert proxy.cuts == 1
    check(stack.db, [*warm, job])
