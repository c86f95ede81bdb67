"""Two releases side by side: a worker that knows a job type runs it, and one that does not leaves it to the other."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.forks import ROOT
from tests.support.invariants import check
from tests.support.load import Measured
from tests.support.process_stack import ProcessStack
from tests.support.waiting import Stopwatch


def release(name: str) -> dict[str, str]:
    """The settings of a process of one release of a package outside the project."""
    path = [str(ROOT / "tests" / "support" / "releases" / name), str(ROOT)]
    return {"JOB_PACKAGES": "tests.support.chaos_jobs,shop", "PYTHONPATH": os.pathsep.join(path)}


def test_a_package_outside_the_project_is_found_submitted_and_run(
    make_stack: Callable[..., ProcessStack],
) -> None:
    stack = make_stack(**release("old"))
    stack.worker("w1")
    stack.beat()

    ids = stack.submit("shop.order", [{"n": n} for n in range(10)])

    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    assert stack.db.fetch("SELECT DISTINCT result->>'by' FROM esteira_job") == [("old",)]


def test_two_releases_side_by_side_fail_nothing(make_stack: Callable[..., ProcessStack]) -> None:
    """The new one submits a parameter and a type that the old one refuses and does not know."""
    stack = make_stack(**release("new"))
    stack.worker("old", **release("old"))
    stack.worker("new")
    stack.beat()

    ids = [
        *stack.submit("shop.order", [{"n": n, "gift": True} for n in range(10)]),
        *stack.submit("shop.refund", [{"n": n} for n in range(10)]),
    ]

    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    assert stack.db.fetch("SELECT DISTINCT result->>'by' FROM esteira_job") == [("new",)]


def test_what_only_a_newer_worker_knows_waits_for_it(make_stack: Callable[..., ProcessStack]) -> None:
    stack = make_stack(**release("new"))
    stack.worker("old", **release("old"))
    stack.beat()
    ids = stack.submit("shop.refund", [{"n": n} for n in range(20)])
    known = stack.submit("effects.work", 10)
    stack.wait_ended(known)
    assert stack.db.counts(ids) == {"queued": 20}

    stack.worker("new")

    stack.wait_ended()
    check(stack.db, [*ids, *known], crashed=False)
    assert not stack.db.one("SELECT sum(attempt) FROM esteira_job WHERE type = 'shop.refund' AND attempt > 1")


def test_two_thousand_jobs_that_nobody_knows_delay_no_known_one(
    make_stack: Callable[..., ProcessStack], measured: Measured
) -> None:
    stack = make_stack(**release("new"))
    old = stack.worker("old", **release("old"))
    stack.beat()
    unknown = stack.submit("shop.refund", [{"n": n} for n in range(2000)], priority="high")
    watch = Stopwatch()

    known = stack.submit("effects.work", 20)
    stack.wait_ended(known)

    measured(watch.seconds, 5.0)
    assert stack.db.counts(unknown) == {"queued": 2000}
    old.stop()
    stack.worker("new")
    stack.wait_ended()
    check(stack.db, [*unknown, *known], crashed=False)
