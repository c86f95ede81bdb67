"""Two containers of one host name on one machine: both have a process 1, and neither can see the other's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.support.invariants import check
from tests.support.process_stack import ProcessStack
from tests.support.processes import Process

#: A pid namespace of its own, as each container has one.
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def may_make_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not may_make_namespaces(), reason="pid namespaces need Linux and root")


def contained(stack: ProcessStack, alias: str) -> Process:
    """Start a worker that is process 1 of its namespace."""
    arguments = ["celery", "-A", "project", "worker", "-l", "info", "--hostname", "w1@test"]
    process = Process(alias, arguments, stack.environment(), stack.logs)
    process.arguments = [*NAMESPACE, *process.arguments]
    return stack._start(process, "worker", wait=True)


def test_a_namesake_in_another_container_rescues_nobody(make_stack: Callable[..., ProcessStack]) -> None:
    stack = make_stack(LEASE_SECONDS="20")
    stack.beat()
    contained(stack, "one")
    ids = stack.submit("effects.deaf", [{"seconds": 40}] * 2)
    stack.until(lambda: stack.db.counts(ids).get("running") == 2, "both jobs run")

    other = contained(stack, "two")
    other.kill()
    contained(stack, "three")

    assert not stack.db.fetch("SELECT kind FROM esteira_jobevent")
    names = stack.db.fetch("SELECT name FROM esteira_worker WHERE state = 'up' ORDER BY name")
    assert names[:2] == [("w1@test",), ("w1@test-2",)]
    stack.wait_ended(timeout=90)
    check(stack.db, ids, crashed=False)
    assert stack.db.fetch("SELECT DISTINCT attempt, suspicion FROM esteira_job") == [(1, 0)]
