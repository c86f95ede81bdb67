"""One installation for all tests of Kubernetes here, in a namespace that allows restricted pods only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import printed
from tests.support.forks import ROOT
from tests.support.kubernetes_stack import KubernetesStack
from tests.support.remote_stack import CHAOS_JOBS
from tests.support.shared_stacks import shared_stack
from tests.support.waiting import Stopwatch

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
#: What looks at a fresh installation comes before what changes it.
ORDER = ("test_apply", "test_journey", "test_network", "test_scale", "test_changes", "test_overlays")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if item.get_closest_marker("cluster") and item.path.stem in ORDER]
    ordered = iter(sorted(mine, key=lambda item: ORDER.index(item.path.stem)))
    items[:] = [next(ordered) if item in mine else item for item in items]


class Installed(KubernetesStack):
    """The installation, and how long it took from nothing."""

    available_in_s = 0.0


@pytest.fixture(scope="session")
def fresh(loaded_images: None) -> Iterator[Installed]:
    """`kubectl apply -f k8s/`, and nothing else, as docs/kubernetes.md has it."""
    cluster = Installed(f"esteira-e2e-{os.getpid()}")
    with shared_stack("fresh", Path(__file__).parent, cluster.remove):
        cluster.create(**RESTRICTED)
        watch = Stopwatch()
        cluster.type(printed("docs/kubernetes.md", "kubectl apply -f k8s/\nkubectl wait"), timeout=400)
        cluster.available_in_s = watch.seconds
        yield cluster


@pytest.fixture(scope="session")
def stack(fresh: Installed, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The same with the tests' job types, a mail server, and a variable of somebody's own jobs."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(ROOT / "jobs.env.example", folder)
    fresh.type(printed("docs/your-own.md", "cp jobs.env.example jobs.env"), folder)
    fresh.type(printed("docs/your-own.md", "kubectl create secret generic jobs"), folder)
    fresh.configure(JOB_PACKAGES=f"{CHAOS_JOBS},tests.support.ticking_jobs")
    return fresh
