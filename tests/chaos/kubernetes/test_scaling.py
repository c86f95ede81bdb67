"""Who scales in takes idle workers first, be it a person, an HPA or KEDA: no long job is cut by it.

Waits are shortened where the manifests make them long; the grace of a worker, which they must outlast, is as short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from project.kubernetes.scale_in import ANNOTATION, IDLE
from tests.support.invariants import check
from tests.support.kubernetes_under_load import KubernetesStackUnderLoad

pytestmark = pytest.mark.long

ROUNDS = 10
#: Seconds; longer than the drain of these workers and all that comes with it.
SETTLED = 25


@contextmanager
def added(stack: KubernetesStackUnderLoad, component: str) -> Iterator[None]:
    objects = stack.add(component)
    try:
        yield
    finally:
        stack.take_away(objects)


@pytest.fixture
def idle_first(stack: KubernetesStackUnderLoad) -> Iterator[None]:
    with added(stack, "scale-in"):
        stack.patch("deployment", "scale-in", {"spec": {"template": stack.with_tests("scale-in")}})
        stack.rolled_out("deploy/scale-in")
        yield


def costs(stack: KubernetesStackUnderLoad) -> dict[str, int]:
    """Return what ending each worker costs; -1 while nobody has said."""
    return {
        pod["metadata"]["name"]: int(pod["metadata"].get("annotations", {}).get(ANNOTATION, -1))
        for pod in stack.pods("worker")
    }


@pytest.mark.usefixtures("idle_first")
def test_idle_workers_go_first(stack: KubernetesStackUnderLoad) -> None:
    """One of three is busy, whichever took the job; all others have been idle for ten seconds."""
    kept, ids = [], []
    for _ in range(ROUNDS):
        stack.scale("worker", 3)
        stack.until(lambda: set(costs(stack).values()) == {IDLE}, "all are idle", timeout=60)
        ids += stack.submit("effects.deaf", [{"seconds": 12}])
        stack.until(
            lambda: sorted(costs(stack).values())[:2] == [IDLE] * 2 < [max(costs(stack).values())],
            "one is not",
        )
        (busy,) = [name for name in stack.names("worker") if stack.held(name)]

        stack.scale("worker", 1)

        kept.append(stack.names("worker") == [busy])
        stack.wait_ended(ids)

    print(f"the busy worker stayed in {kept.count(True)} of {ROUNDS}")
    assert all(kept)
    assert not stack.cut_off(ids)
    check(stack.db, ids, crashed=False)


@pytest.mark.usefixtures("idle_first")
def test_an_hpa_scales_on_processors(stack: KubernetesStackUnderLoad) -> None:
    """1 → n while processors are busy, and back while a long job runs, which is not cut."""
    stack.scale("worker", 1)
    with added(stack, "hpa"):
        faster("hpa", stack, {"stabilizationWindowSeconds": SETTLED, "policies": [ONE_AT_A_TIME]})
        ids = stack.submit("plain.burn", [{"seconds": 2}] * 120)
        stack.until(lambda: len(stack.ready("worker")) > 1, "there are more workers", timeout=120)
        ids += (long := stack.submit("effects.deaf", [{"seconds": 150}]))
        stack.until(lambda: len(stack.names("worker")) == 1, "there is one again", timeout=300)
        assert stack.db.counts(long) == {"running": 1}, "it was there all the while"
        stack.wait_ended(timeout=200)

    assert not stack.cut_off(ids)
    check(stack.db, ids, crashed=False)


@pytest.mark.usefixtures("idle_first")
def test_keda_scales_on_work_to_none_and_back(stack: KubernetesStackUnderLoad) -> None:
    if stack.tried("get", "crd", "scaledobjects.keda.sh").returncode:
        pytest.skip("the cluster has no KEDA")
    with added(stack, "keda"):
        faster("scaledobject", stack, {"stabilizationWindowSeconds": SETTLED, "policies": [ALL_AT_ONCE]})
        stack.until(lambda: not stack.names("worker"), "nobody waits for work", timeout=180)

        long = stack.submit("effects.deaf", [{"seconds": 100}])
        ids = [*long, *stack.submit("effects.deaf", [{"seconds": 3}] * 24)]
        stack.until(lambda: len(stack.ready("worker")) > 1, "work has woken workers", timeout=120)
        stack.until(lambda: len(stack.names("worker")) == 1, "one is left", timeout=180)
        assert stack.db.counts(long) == {"running": 1}, "it was there all the while"
        stack.wait_ended(timeout=200)
        stack.until(lambda: not stack.names("worker"), "nobody waits for work again", timeout=180)

    assert not stack.cut_off(ids)
    check(stack.db, ids, crashed=False)


ONE_AT_A_TIME = {"type": "Pods", "value": 1, "periodSeconds": SETTLED}
ALL_AT_ONCE = {"type": "Percent", "value": 100, "periodSeconds": 15}


def faster(kind: str, stack: KubernetesStackUnderLoad, scale_down: dict[str, Any]) -> None:
    """Shorten what waits for minutes."""
    behavior = {"behavior": {"scaleDown": scale_down}}
    spec: dict[str, Any] = behavior
    if kind == "scaledobject":
        spec = {"cooldownPeriod": SETTLED, "advanced": {"horizontalPodAutoscalerConfig": behavior}}
    stack.patch(kind, "worker", {"spec": spec}, how="merge")
