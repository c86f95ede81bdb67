"""Workers are told to stop, by whatever signal and however often: nothing is counted against what they run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from uuid import UUID

import pytest

from tests.support.invariants import check
from tests.support.stack import Stack


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP], ids=lambda how: how.name)
def test_stop_every_process_of_a_worker_again_and_again(
    make_stack: Callable[..., Stack], how: signal.Signals
) -> None:
    """As systemd and a closed terminal do: four stops in a row count nothing against the job that each interrupts."""
    stack = make_stack(DRAIN_SECONDS="1")
    worker, _ = stack.worker("w1"), stack.beat()
    (job,) = stack.submit("effects.deaf", [{"seconds": 8}])

    for attempt in range(1, 5):
        stack.until(lambda: running(stack, job) >= attempt, f"attempt {attempt} runs")  # noqa: B023
        worker.signal_all(how)
        stack.until(lambda: not worker.alive(), "the worker has left", timeout=20)
        worker.kill()
        row = stack.db.fetch("SELECT failures, suspicion, state FROM esteira_job WHERE id = %s", [job])
        assert row == [(0, 0, "queued")], worker.last_words()
        stack.again(worker)

    stack.wait_ended()
    check(stack.db, [job], crashed=False)
    assert stack.db.counts([job]) == {"succeeded": 1}


def running(stack: Stack, job: str) -> int:
    """Return the attempt that runs; 0 if none does."""
    row = stack.db.fetch("SELECT attempt FROM esteira_job WHERE id = %s AND state = 'running'", [UUID(job)])
    return int(row[0][0]) if row else 0
