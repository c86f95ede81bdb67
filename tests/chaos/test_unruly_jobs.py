"""Jobs that do what a job should not: fork, and raise after their commit. Each effect is recorded once."""

from __future__ import annotations

import pytest

from tests.support.invariants import check
from tests.support.load import JOBS
from tests.support.process_stack import ProcessStack

pytestmark = pytest.mark.kills


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("effects.hooked", {"seconds": 0.02}),
        ("effects.forks", {"seconds": 0.02}),
        ("effects.forks", {"seconds": 0}),
    ],
    ids=["hooks that raise", "a child that returns", "a child that exits"],
)
def test_unruly_jobs_harm_nobody(stack: ProcessStack, name: str, params: dict[str, float]) -> None:
    stack.worker("w1")
    stack.beat()
    ids = stack.submit(name, [params] * (JOBS // 4))
    ids += stack.submit("plain.nap", [{"seconds": 0.02}] * (JOBS // 4))
    ids += stack.submit("effects.work", [{"seconds": 0.02}] * (JOBS // 4))

    stack.wait_ended()

    check(stack.db, ids, crashed=False)
    assert stack.db.counts(ids) == {"succeeded": len(ids)}
    assert stack.db.fetch("SELECT job_id FROM esteira_jobevent") == []
