"""One installation for all tests here, mended and emptied before each.

`make test` deletes a worker's pod and Redis' pod; `make chaos-k8s` also runs the tests marked `long`, with longer
leases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
