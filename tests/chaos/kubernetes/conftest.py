"""One installation for all tests here, mended and emptied before each.

`make test` deletes a worker's pod and Redis' pod; `make chaos-k8s` also runs the tests marked `long`, with longer
leases.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.kubernetes_under_load import KubernetesStackUnderLoad
from tests.support.shared_stacks import shared_stack

LEASE_S = os.environ.get("LEASE", "3")


@pytest.fixture(scope="session")
def shared(loaded_images: None) -> Iterator[KubernetesStackUnderLoad]:
    cluster = KubernetesStackUnderLoad(
        f"esteira-chaos-{os.getpid()}", LEASE_SECONDS=LEASE_S, DRAIN_SECONDS="8.0"
    )
    with shared_stack("shared", Path(__file__).parent, cluster.remove):
        cluster.start()
        yield cluster


@pytest.fixture
def stack(shared: KubernetesStackUnderLoad) -> KubernetesStackUnderLoad:
    """Two workers, two webs, two beats, Flower and both servers, all ready, without a job."""
    shared.renew()
    return shared


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the pods look like and have said."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and report.when == "call" and isinstance(stack, KubernetesStackUnderLoad):
        report.sections.append(("pods", stack.tried("get", "pods", "-o", "wide").stdout))
        said = stack.tried("logs", "-l", "app.kubernetes.io/part-of=esteira", "--tail=25", "--prefix")
        report.sections.append(("logs", said.stdout))
    return report
