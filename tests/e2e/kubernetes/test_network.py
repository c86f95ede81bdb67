"""Network policies: each part, and a foreign pod, reaches only the parts that it needs."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kubernetes.conftest import Installed
from tests.support.waiting import until

READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
#: Waits a second; a dropped packet says nothing.
TRY = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        print(target)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def targets(stack: Installed) -> dict[str, str]:
    """Everything that listens, by the address of a pod: names need a server of names, which not everybody may ask."""
    ports = {"web": 8000, "flower": 5555, "postgres": 5432, "redis": 6379}
    found = {name: f"{stack.pods(name)[0]['status']['podIP']}:{port}" for name, port in ports.items()}
    found["metrics"] = found["web"].replace(":8000", ":9090")
    (slice_,) = json.loads(
        stack.kubectl(
            "get",
            "endpointslices",
            "-n",
            "default",
            "-l",
            "kubernetes.io/service-name=kubernetes",
            "-o",
            "json",
        )
    )["items"]
    return {**found, "kubernetes": f"{slice_['endpoints'][0]['addresses'][0]}:{slice_['ports'][0]['port']}"}


def reached(stack: Installed, source: str, targets: dict[str, str]) -> set[str]:
    """Return what a pod can connect to."""
    told = stack.kubectl("exec", source, "--", "python3", "-c", TRY, *targets.values()).split()
    return {name for name, target in targets.items() if target in told}


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        ("web", {"postgres", "redis"}),
        ("worker", {"postgres", "redis"}),
        ("beat", {"postgres", "redis"}),
        ("flower", {"redis"}),
        ("keys", {"kubernetes"}),
    ],
)
def test_a_part_reaches_what_it_needs_and_nothing_else(
    stack: Installed, targets: dict[str, str], part: str, needs: set[str]
) -> None:
    own = {f"{pod['status']['podIP']}" for pod in stack.pods(part)}
    others = {name: target for name, target in targets.items() if target.rsplit(":", 1)[0] not in own}

    # The web's public port is open for everybody to come in; that nobody of ours goes there is their own policy.
    assert reached(stack, f"deploy/{part}", others) == needs


def test_only_the_monitor_reaches_the_metrics_and_a_stranger_the_public_port(
    stack: Installed, targets: dict[str, str]
) -> None:
    """The other objects of k8s/monitoring are of kinds that only the operator of Prometheus knows."""
    ours = {name: target for name, target in targets.items() if name != "kubernetes"}
    with (
        stack.pod("stranger") as stranger,
        stack.pod("monitor", **{"app.kubernetes.io/name": "prometheus"}) as monitor,
    ):
        assert reached(stack, stranger, ours) == reached(stack, monitor, ours) == {"web"}

        stack.apply("-f", "k8s/monitoring/network.yaml")
        until(lambda: reached(stack, monitor, ours) == {"web", "metrics"}, "the monitor is let in", every=1)
        assert reached(stack, stranger, ours) == {"web"}
        told = stack.kubectl(
            "exec", monitor, "--", "python3", "-c", READ, f"http://{ours['metrics']}/metrics"
        )

    assert 'esteira_workers{state="up"}' in told
    assert "esteira_redis_up 1.0" in told.splitlines()


def test_jobs_are_accepted_while_there_is_no_redis(stack: Installed) -> None:
    api = stack.api()
    stack.kubectl("scale", "statefulset/redis", "--replicas=0")
    until(lambda: not stack.get("pods", **{"app.kubernetes.io/name": "redis"}), "Redis is gone", timeout=60)
    ids = [api.submit(f"no-redis-{number}", "effects.work", {}) for number in range(20)]

    assert api.request("/readyz").json()["status"] == "warn"
    assert stack.db.counts(ids) == {"queued": 20}
    until(lambda: not stack.ready("worker"), "the worker says that it takes no jobs", timeout=60)
    assert not any(
        status["restartCount"]
        for pod in stack.pods("worker")
        for status in pod["status"]["containerStatuses"]
    )
    stack.kubectl("scale", "statefulset/redis", "--replicas=1")
    stack.wait_ended(ids)
    assert stack.db.counts(ids) == {"succeeded": 20}
    until(lambda: stack.ready("worker"), "the worker is ready again", timeout=60)
