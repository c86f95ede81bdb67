"""PostgreSQL restarts and connections break at the worst moment; nothing is lost or done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from esteira.job_types.registry import HARD_AFTER_S
from tests.support.database_faults import frozen, read_only, snapshot_held
from tests.support.invariants import check
from tests.support.load import JOBS, Measured, mixed, outage
from tests.support.observer import Observer
from tests.support.process_stack import ProcessStack
from tests.support.proxy import Proxy
from tests.support.waiting import Stopwatch

#: How long PostgreSQL is away, in seconds; OUTAGES=3,15 for the long way.
OUTAGES = [float(one) for one in os.environ.get("OUTAGES", "3").split(",")]

#: How long it takes no writes: six leases.
READ_ONLY_S = 12.0


#: The jobs without effects that ran again; one that was handed back before it started did not.
AGAIN = """SELECT j.type FROM esteira_job j JOIN esteira_jobevent e ON e.job_id = j.id
           WHERE e.kind = 'rescued' AND starts_with(j.type, 'plain.')"""


def check_cut(db: Observer, ids: list[str]) -> None:
    """Check after an absence of the database: only a job that used its connection then is suspected, by a point."""
    check(db, ids)
    suspected = """SELECT type, suspicion FROM esteira_job
                   WHERE suspicion > (CASE WHEN starts_with(type, 'effects.') THEN 5 ELSE 0 END) OR solo"""
    assert db.fetch(suspected) == []


@pytest.mark.kills
@pytest.mark.parametrize("seconds", OUTAGES)
def test_db_restart(stack: ProcessStack, measured: Measured, seconds: float) -> None:
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
    check_cut(stack.db, [*ids, *long])
    assert stack.db.fetch(AGAIN) == [], "jobs without effects ran again although their workers lived"


@pytest.mark.kills
def test_db_restart_while_nobody_works(stack: ProcessStack) -> None:
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


def test_every_connection_is_cut_again_and_again(stack: ProcessStack) -> None:
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
    check_cut(stack.db, ids)


@pytest.mark.kills
def test_the_server_takes_no_writes_for_a_while(stack: ProcessStack, measured: Measured) -> None:
    """A fail-over, or a managed server's full disk: six leases long, and no healthy job is taken from its worker."""
    stack.worker("w1")
    stack.worker("w2")
    stack.beat()
    ids = mixed(stack)
    stack.halfway(ids, "w1", "w2")
    long = [
        *stack.submit("plain.nap", [{"seconds": READ_ONLY_S + 3}], priority="high"),
        *stack.submit("plain.nap", [{"seconds": 2}], priority="high"),
    ]
    stack.until(lambda: stack.db.counts(long).get("running") == len(long), "the long jobs run")

    with read_only(stack.db):
        outage(READ_ONLY_S)

    measured(stack.flows_again(), 3.0, away=READ_ONLY_S)
    stack.wait_ended()
    check_cut(stack.db, [*ids, *long])
    assert stack.db.fetch(AGAIN) == [], "jobs without effects ran again although their workers lived"
    # A job's own write may fail meanwhile, and so may its completion.
    rescued = """SELECT kind, detail FROM esteira_jobevent
                 WHERE kind <> 'retry_scheduled' AND detail->>'reason' IS DISTINCT FROM 'connection lost'"""
    assert stack.db.fetch(rescued) == []


@pytest.mark.kills
def test_freeze_db_with_warm_connections(stack: ProcessStack, measured: Measured) -> None:
    """It answers nothing for three leases and closes nothing: everybody waits for seconds, then asks anew."""
    stack.worker("w1")
    beat, web = stack.beat(), stack.web()
    api = stack.api()
    ids = mixed(stack)
    long = stack.submit("plain.nap", [{"seconds": 3 * stack.lease_s + 2}], priority="high")
    stack.halfway(ids, "w1")
    accepted = [api.submit(str(n), "effects.work", {"seconds": 0}) for n in range(8)]

    watch = Stopwatch()
    with frozen(stack.postgres.pid):
        refused = api.request("/api/v1/jobs", {"type": "effects.work"}, key="refused", timeout=30)
        live = api.request("/livez")
        outage(max(0.0, 3 * stack.lease_s - watch.seconds))

    assert (refused.status, live.status) == (503, 200)
    measured(stack.flows_again(), stack.lease_s + 3.0, away=watch.seconds)
    accepted.append(api.submit("refused", "effects.work", {}))
    stack.wait_ended()
    check_cut(stack.db, [*ids, *long, *accepted])
    assert stack.db.one("SELECT count(*) FROM esteira_job") == len({*ids, *long, *accepted})
    assert beat.alive() and web.alive()


@pytest.mark.kills
def test_kill_a_worker_under_a_snapshot_of_the_whole_run(stack: ProcessStack, measured: Measured) -> None:
    """A backup reads all the while: nothing that ended is cleaned up, and what dies is found as fast."""
    victim, _, _ = stack.worker("w1"), stack.worker("w2"), stack.beat()
    with snapshot_held(stack.postgres.url):
        many = stack.submit("plain.nothing", JOBS * 10)
        stack.wait_ended(many)
        ids = mixed(stack)
        lost = stack.halfway(ids, "w1")
        was = stack.db.attempts(lost)

        victim.kill()

        measured(stack.run_again(lost, was), stack.lease_s + 1.5)
        stack.wait_ended()
    check(stack.db, [*many, *ids])


def test_an_end_outlasts_an_absence_that_is_far_longer_than_its_jobs_time_limit(stack: ProcessStack) -> None:
    """Nobody ends a process that waits to write, and one that has a hint waits its whole patience for the claim."""
    stack.worker("w1")
    stack.beat()
    warm = stack.submit("plain.brief", 1)
    stack.wait_ended(warm)
    (job,) = stack.submit("plain.brief", 1)
    stack.until(lambda: stack.db.counts([job]).get("running") == 1, "the job runs")

    with read_only(stack.db):
        outage(1 + HARD_AFTER_S + 20)

    stack.wait_ended()
    check(stack.db, [*warm, job])
    assert stack.db.fetch("SELECT attempt, suspicion FROM esteira_job WHERE id = %s", [job]) == [(1, 0)]


@pytest.fixture
def proxied(make_stack: Callable[..., ProcessStack]) -> Iterator[tuple[ProcessStack, Proxy]]:
    stack, proxy = with_proxy(make_stack, LEASE_SECONDS="10")
    yield stack, proxy
    proxy.close()


def with_proxy(make_stack: Callable[..., ProcessStack], **settings: str) -> tuple[ProcessStack, Proxy]:
    """Start a stack whose one worker reaches PostgreSQL through a proxy."""
    stack = make_stack(CONCURRENCY="1", **settings)
    proxy = Proxy(stack.postgres.port)
    address = stack.postgres.url.replace(f":{stack.postgres.port}/", f":{proxy.port}/")
    stack.worker("w1", DATABASE_URL=address)
    stack.beat()
    return stack, proxy


def one_job(
    stack: ProcessStack, proxy: Proxy, name: str, *words: str, **how: bool
) -> tuple[str, int, int, int]:
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
def test_lost_commit_ack(proxied: tuple[ProcessStack, Proxy], name: str) -> None:
    """The commit went through, its answer did not: exactly one effect, and the job does not run again."""
    ended = one_job(*proxied, name, "INSERT INTO effect", "COMMIT", after=True)

    assert ended == ("succeeded", 1, 0, 0)


@pytest.mark.parametrize("name", ["effects.work", "effects.transfer"])
def test_a_commit_that_never_arrived(proxied: tuple[ProcessStack, Proxy], name: str) -> None:
    """Nothing was recorded: the whole attempt runs again, and counts no failure but a point of suspicion."""
    ended = one_job(*proxied, name, "INSERT INTO effect", "COMMIT", after=False)

    assert ended == ("succeeded", 2, 0, 1)


def test_a_transaction_that_the_server_never_sees_end_is_ended_for_it(
    make_stack: Callable[..., ProcessStack], request: pytest.FixtureRequest
) -> None:
    """A silent network keeps a transaction open, and with it the lock on the row: for a lease at most."""
    stack, proxy = with_proxy(make_stack, LEASE_SECONDS="3")
    request.addfinalizer(proxy.close)

    ended = one_job(stack, proxy, "effects.work", "INSERT INTO effect", "COMMIT", half=True)

    assert ended == ("succeeded", 2, 0, 1)


@pytest.mark.parametrize("after", [True, False])
def test_the_end_of_a_job_without_effects_is_written_again(
    proxied: tuple[ProcessStack, Proxy], after: bool
) -> None:
    """Whether or not the first try arrived, the end is recorded once and the job does not run again."""
    ended = one_job(*proxied, "plain.nap", "SET state = 'succeeded'", after=after)

    assert ended == ("succeeded", 1, 0, 0)


def test_a_claim_whose_answer_is_lost(proxied: tuple[ProcessStack, Proxy]) -> None:
    """The job is claimed and nobody knows: its lease ends, and it runs."""
    stack, proxy = proxied
    warm = stack.submit("plain.nap", 1)
    stack.wait_ended(warm)
    proxy.arm("delivery =", after=True)

    (job,) = stack.submit("plain.nap", 1)
    stack.wait_ended(timeout=40)

    assert proxy.cuts == 1
    check(stack.db, [*warm, job])
