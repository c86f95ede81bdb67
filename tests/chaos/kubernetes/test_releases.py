"""Another image is rolled out while jobs run and people use the pages, and is rolled back: no request or job fails."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.compose_stack import image
from tests.support.invariants import check
from tests.support.kubectl import load
from tests.support.kubernetes_stack import ROLES
from tests.support.kubernetes_under_load import KubernetesStackUnderLoad
from tests.support.load import Measured, mixed
from tests.support.under_load import GRACE_S
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long

JOBS = int(os.environ.get("JOBS", "2000"))
NEXT = "next"
LONG_S = 4


@pytest.fixture(scope="module")
def next_images(images: None) -> None:
    """The same code under another tag, with a layer more: for Kubernetes, another release."""
    for role in ROLES:
        subprocess.run(
            ["docker", "build", "-q", "-t", f"esteira-{role}:{NEXT}", "-"],
            input=f"FROM {image(role)}\nLABEL org.opencontainers.image.version={NEXT}\n",
            text=True,
            check=True,
            capture_output=True,
            timeout=120,
        )
    load(*(f"esteira-{role}:{NEXT}" for role in ROLES))


def test_roll_out_and_undo(stack: KubernetesStackUnderLoad, measured: Measured, next_images: None) -> None:
    old = stack.names("worker")
    ids = mixed(stack, JOBS)
    was = stack.catch(ids, *old)

    with stack.visitors() as wrong:
        watch = Stopwatch()
        for role in ROLES:
            containers = [role] if role == "flower" else [role, "migrate"]
            stack.kubectl(
                "set", "image", f"deploy/{role}", *(f"{name}=esteira-{role}:{NEXT}" for name in containers)
            )
        stack.rolled_out(*(f"deploy/{role}" for role in ROLES), timeout=300)
        assert not set(stack.names("worker")) & set(old)
        measured(stack.flows_again(), stack.lease_s + GRACE_S, "forward", away=watch.seconds)

        more = stack.submit("effects.deaf", [{"seconds": 2}] * 12, priority="high")
        watch = Stopwatch()
        stack.kubectl("rollout", "undo", *(f"deploy/{role}" for role in ROLES))
        stack.rolled_out(*(f"deploy/{role}" for role in ROLES), timeout=300)
        measured(stack.flows_again(), stack.lease_s + GRACE_S, "back", away=watch.seconds)

    assert not wrong, "\n".join(wrong[:50])
    stack.wait_ended(timeout=240)
    assert not stack.cut_off([*(str(one) for one in was), *more, *ids])
    check(stack.db, [*ids, *more], crashed=False)


def test_scale_out_and_in_while_long_jobs_run(stack: KubernetesStackUnderLoad, measured: Measured) -> None:
    """1 → 6 → 1: who has to go drains first, and no job is cut before its drain ends."""
    stack.scale("worker", 1)
    ids = mixed(stack, JOBS // 2)
    ids += stack.submit("effects.deaf", [{"seconds": LONG_S}] * 24, priority="high")
    stack.scale("worker", 6)
    everybody = stack.names("worker")
    stack.until(lambda: all(stack.held(worker) for worker in everybody), "all six work", timeout=60)

    watch = Stopwatch()
    stack.scale("worker", 1, wait=False)
    stack.until(lambda: len(stack.names("worker")) == 1, "one stays", timeout=120)

    # Whoever stays ends the long jobs that it holds, and takes others, which are first in its queue.
    measured(stack.flows_again(), stack.lease_s + GRACE_S + 2 * LONG_S, away=watch.seconds)
    stack.wait_ended(timeout=240)
    assert not stack.cut_off(ids)
    check(stack.db, ids, crashed=False)
