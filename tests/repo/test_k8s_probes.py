"""The probes of each pod fit what its process answers, and init containers do what compose's one-shot services do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.repo.compose_files import rendered
from tests.repo.manifest_faults import pods
from tests.repo.manifests import base
from tests.repo.tree import ROOT, text

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def container(name: str) -> dict[str, Any]:
    (pod,) = [pod for pod in pods(base()) if pod.name == name]
    return dict(pod.spec["containers"][0])


@pytest.mark.parametrize("name", ["web", "worker", "beat", "flower", "redis", "postgres", "keys"])
def test_each_is_asked_when_it_starts_while_it_runs_and_before_it_serves(name: str) -> None:
    assert set(PROBES) <= set(container(name))

    start = container(name)["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 120, "the first start waits for others"


@pytest.mark.parametrize("name", ["worker", "beat", "flower", "keys"])
def test_what_is_run_in_a_pod_is_in_its_image(name: str) -> None:
    image = container(name)["image"].removeprefix("esteira-").split(":")[0]
    for probe in PROBES:
        command = container(name)[probe].get("exec", {}).get("command", [])
        for part in command:
            if part.startswith("/services/"):
                assert part.startswith(f"/services/{image}/"), part
                assert (ROOT / part.removeprefix("/")).is_file(), part


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_a_stuck_loop_is_restarted_and_a_lonely_one_is_left_alone(name: str) -> None:
    alive, ready = container(name)["livenessProbe"], container(name)["readinessProbe"]

    assert alive["exec"]["command"][-1].endswith("/healthy")
    assert ready["exec"]["command"][-1].endswith("/ready")
    assert f"{name}.alive" in text(f"services/{name}/healthy")
    assert f"{name}.ready" in text(f"services/{name}/ready")
    assert _age(name, "healthy") + alive["periodSeconds"] * alive.get("failureThreshold", 3) <= 60
    assert _age(name, "ready") < _age(name, "healthy")


def _age(name: str, script: str) -> int:
    (age,) = re.findall(r"-newermt '-(\d+) seconds'", text(f"services/{name}/{script}"))
    return int(age)


def test_web_is_asked_where_it_answers_by_a_name_that_it_accepts() -> None:
    alive, ready = (container("web")[probe]["httpGet"] for probe in PROBES[1:])

    assert f"GET {ready['path']} " in text("services/web/healthy.py")
    assert alive["path"] in text("esteira_web/server/health.py")
    for asked in (alive, ready):
        assert asked["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_the_first_container_does_what_compose_s_one_shot_does_and_waits() -> None:
    theirs = rendered()["services"]["migrate"]["command"]

    for pod in pods(base()):
        for first in pod.spec.get("initContainers", []):
            if first["name"] == "migrate":
                assert first["command"] == [*theirs, "patiently"]
            assert first["image"] == pod.spec["containers"][0]["image"]
