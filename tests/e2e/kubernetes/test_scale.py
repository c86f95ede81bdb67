"""More workers do more, and an apply leaves their number alone."""

from __future__ import annotations

import os

from tests.e2e.kubernetes.conftest import Installed
from tests.support.documents import printed
from tests.support.invariants import check
from tests.support.waiting import Stopwatch, until

WORKERS = 4
#: Of sleeping jobs, so that the machine's cores do not decide; STRICT=1 holds a busy machine to the whole of it.
GAIN = 3.6 if os.environ.get("STRICT") else 3.0
NAP = {"seconds": 0.2}
ROUND = 120


def test_four_workers_do_four_times_as_much_and_an_apply_keeps_them(stack: Installed) -> None:
    # The journey's ticks would run in between, and one of them is always about to.
    stack.db.fetch("UPDATE esteira_schedule SET enabled = false")
    stack.wait_ended()
    slow = jobs_a_second(stack, ROUND)

    stack.type(printed("docs/kubernetes.md", "kubectl scale deploy/worker --replicas=4"))
    until(lambda: len(working(stack)) == WORKERS, "every worker has run something", timeout=60)
    fast = jobs_a_second(stack, ROUND * WORKERS)
    stack.apply("-f", "k8s/worker.yaml")

    assert len(stack.names("worker")) == WORKERS
    assert fast / slow >= GAIN, f"{WORKERS} workers did {fast:.1f} jobs a second, one did {slow:.1f}"
    print(f"{WORKERS} workers: {fast:.1f} jobs/s, one: {slow:.1f}, ratio {fast / slow:.2f}")


def working(stack: Installed) -> set[str]:
    """Give the workers something to do; return who did the latest of it."""
    ids = stack.submit("plain.nap", [{"seconds": 0.3}] * 4 * WORKERS)
    seen: set[str] = set()

    def ended() -> bool:
        rows = stack.db.fetch(
            "SELECT worker FROM esteira_job WHERE state = 'running' AND id = ANY(%s::uuid[])", [ids]
        )
        seen.update(name for (name,) in rows)
        return stack.db.counts(ids).get("succeeded") == len(ids)

    until(ended, "the naps are over", every=0.02)
    return seen


def jobs_a_second(stack: Installed, many: int) -> float:
    ids = stack.submit("plain.nap", [NAP] * many)
    stack.db.fetch("SELECT 1")
    watch = Stopwatch()
    first = stack.db.counts(ids).get("succeeded", 0)
    stack.wait_ended(ids, timeout=120)
    check(stack.db, ids, may_fail=["demo.failing"], may_cancel=["demo.slow"], crashed=False)  # of the journey
    return (many - first) / watch.seconds
