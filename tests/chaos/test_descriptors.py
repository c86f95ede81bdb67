"""Redis accepts connections and no writes, or no descriptor can be opened any more: no process waits for ever."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from tests.support.invariants import check
from tests.support.process_stack import ProcessStack
from tests.support.processes import Process

#: How often a worker connects to a Redis that refuses it; each attempt used to leave two descriptors open.
ATTEMPTS = 10
#: What a process has open for a moment while it connects, beside what it had before.
FEW = 6


def open_in(process: Process) -> int:
    """Count the open descriptors of the one of a process and its children that has most."""
    counts = []
    for one in process.family():
        try:
            counts.append(one.num_fds())
        except psutil.NoSuchProcess:
            continue
    return max(counts)


def test_a_redis_that_may_not_be_written_costs_no_descriptors(stack: ProcessStack) -> None:
    """A managed Redis during a fail-over: workers connect again and again, web and beat send hints in vain."""
    parts = {"worker": stack.worker("w1"), "beat": stack.beat(), "web": stack.web()}
    api = stack.api()
    ids = [api.submit(f"first-{n}", "effects.work", {"seconds": 0}) for n in range(20)]
    stack.wait_ended()
    before = {name: open_in(process) for name, process in parts.items()}
    refusals = parts["worker"].output().count("read only replica")

    stack.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    most = dict(before)
    for n in range(ATTEMPTS):
        ids.append(api.submit(f"refused-{n}", "effects.work", {"seconds": 0}))
        stack.until(
            lambda n=n: parts["worker"].output().count("read only replica") > refusals + n,  # type: ignore[misc]
            "the worker has tried once more",
        )
        most = {name: max(most[name], open_in(process)) for name, process in parts.items()}

    grown = {name: most[name] - before[name] for name in parts}
    assert all(more <= FEW for more in grown.values()), grown
    stack.redis.execute_command("REPLICAOF", "NO", "ONE")
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def starve(process: Process) -> None:
    """Let a process open nothing more, as far as it does not ask for more itself."""
    one = psutil.Process(process.pid)
    _, hard = one.rlimit(psutil.RLIMIT_NOFILE)
    one.rlimit(psutil.RLIMIT_NOFILE, (3, hard))


def test_who_can_open_nothing_ends_with_an_error(make_stack: Callable[..., ProcessStack]) -> None:
    """It looked alive for ever, and did nothing; its supervisor starts another. What it ran goes back, and nobody is blamed."""
    stack = make_stack(LEASE_SECONDS="30")
    worker, beat = stack.worker("w1"), stack.beat()
    ids = stack.submit("effects.deaf", [{"seconds": 15}])
    stack.until(lambda: stack.db.held_by("w1@"), "the job runs")

    starve(worker)
    starve(beat)
    stack.until(lambda: not worker.alive() and not beat.alive(), "both have ended", timeout=20)

    for process in (worker, beat):
        assert process.popen is not None and process.popen.returncode not in (0, None)
        assert "(ulimit -n)" in process.output(), process.last_words()
    stack.again(worker)
    stack.again(beat)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)
