"""Scaling in Kubernetes: what the components say fits the worker, the settings and the controller's code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from project.kubernetes import api, scale_in
from tests.repo.manifests import overlay
from tests.repo.tree import text

#: Of PostgreSQL's connections, those that it keeps for its superuser.
RESERVED = 3


def objects(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text(path)))


def of(path: str, kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects(path) if one["kind"] == kind]
    return found


WORKER = of("k8s/worker.yaml", "Deployment")
GRACE_S = WORKER["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
KEDA = of("k8s/keda/worker.yaml", "ScaledObject")["spec"]
HPA = of("k8s/hpa/worker.yaml", "HorizontalPodAutoscaler")["spec"]
HPA_WEB = of("k8s/hpa-web/web.yaml", "HorizontalPodAutoscaler")["spec"]
WEB = of("k8s/web.yaml", "Deployment")
SCALE_IN = of("k8s/scale-in/scale-in.yaml", "Deployment")["spec"]["template"]["spec"]


def test_the_controller_may_see_and_patch_pods_and_nothing_else() -> None:
    role, binding = (of("k8s/scale-in/account.yaml", kind) for kind in ("Role", "RoleBinding"))

    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [SCALE_IN["serviceAccountName"]]


def test_the_controller_looks_for_the_pods_that_the_deployment_makes() -> None:
    labels = WORKER["spec"]["template"]["metadata"]["labels"]

    assert dict(pair.split("=") for pair in scale_in.WORKERS.split(",")) == labels


def test_a_stuck_controller_is_seen_and_a_slow_one_is_not_taken_for_stuck() -> None:
    (container,) = SCALE_IN["containers"]
    script = f"services/beat/{container['livenessProbe']['exec']['command'][-1].rpartition('/')[2]}"
    sign, age = re.findall(r"\$RUN_DIR/(\S+)\" -newermt '-(\d+) seconds'", text(script))[0]

    assert sign == f"{scale_in.NAME}.alive"
    # Between two touches: a connection and a statement that both time out, or one request.
    assert int(age) > 2 * scale_in.DATABASE_TIMEOUT_S + scale_in.TURN_S
    assert int(age) > api.TIMEOUT_S + scale_in.TURN_S


def test_keda_asks_for_as_many_pods_as_there_are_jobs_for_them() -> None:
    (trigger,) = KEDA["triggers"]

    assert (trigger["type"], trigger["metricType"]) == ("postgresql", "AverageValue")
    assert (
        trigger["metadata"]["targetQueryValue"] == of("k8s/config.yaml", "ConfigMap")["data"]["CONCURRENCY"]
    )
    assert trigger["metadata"]["activationTargetQueryValue"] == "0"
    limits = {int(n) for n in re.findall(r"LIMIT \(SELECT (\d+)\)", trigger["metadata"]["query"])}
    assert min(limits) >= int(trigger["metadata"]["targetQueryValue"]) * KEDA["maxReplicaCount"]


def test_keda_reads_the_address_that_everybody_reads() -> None:
    (given,) = of("k8s/keda/worker.yaml", "TriggerAuthentication")["spec"]["secretTargetRef"]

    assert given == {"parameter": "connection", "name": "esteira", "key": "database_url"}


def test_nobody_decides_on_fewer_pods_before_those_that_left_are_gone() -> None:
    keda = KEDA["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    hpa, web = (each["behavior"]["scaleDown"] for each in (HPA, HPA_WEB))

    assert KEDA["cooldownPeriod"] > GRACE_S
    assert keda["stabilizationWindowSeconds"] > GRACE_S
    assert min(policy["periodSeconds"] for policy in hpa["policies"]) > GRACE_S
    web_grace_s = WEB["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert min(policy["periodSeconds"] for policy in web["policies"]) > web_grace_s


def test_both_scale_the_same_deployment_which_leaves_the_number_to_them() -> None:
    assert KEDA["scaleTargetRef"]["name"] == HPA["scaleTargetRef"]["name"] == WORKER["metadata"]["name"]
    assert "replicas" not in WORKER["spec"]
    for name, other in (("keda", "hpa"), ("hpa", "keda")):
        assert f"../../k8s/{other}" in text(f"k8s/{name}/kustomization.yaml"), f"{name} excludes {other}"


def test_no_answer_of_postgresql_changes_the_number() -> None:
    assert "fallback" not in KEDA
    assert (KEDA["minReplicaCount"], HPA["minReplicas"]) == (0, 1)


def test_an_hpa_keeps_as_many_pods_of_web_as_the_base_has_and_an_apply_leaves_the_number_to_it() -> None:
    (deployment,) = [
        one
        for one in overlay("prod", "hpa-web")
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "web")
    ]

    assert HPA_WEB["scaleTargetRef"]["name"] == WEB["metadata"]["name"]
    assert HPA_WEB["minReplicas"] == WEB["spec"]["replicas"]
    assert "replicas" not in deployment["spec"]


def test_as_many_pods_as_both_may_start_find_connections() -> None:
    """As docs/kubernetes.md counts them, with one pod more of each during an upgrade."""
    settings = of("k8s/config.yaml", "ConfigMap")["data"]
    (most,) = re.findall(r"^max_connections = (\d+)", text("compose/postgres/postgresql.conf"), re.MULTILINE)
    beats = of("k8s/beat.yaml", "Deployment")["spec"]["replicas"]
    of_web = int(settings["WEB_PROCESSES"]) * (int(settings["WEB_THREADS"]) + 2)
    of_worker = 2 * int(settings["CONCURRENCY"]) + 1

    workers = max(HPA["maxReplicas"], KEDA["maxReplicaCount"]) + 1
    asked = (HPA_WEB["maxReplicas"] + 1) * of_web + workers * of_worker + beats + 1

    assert asked <= int(most) - RESERVED


@pytest.mark.parametrize("hpa", [HPA, HPA_WEB], ids=["worker", "web"])
def test_an_hpa_asks_for_processors_and_not_for_a_share_of_the_request(hpa: dict[str, Any]) -> None:
    (metric,) = hpa["metrics"]

    assert metric["resource"]["name"] == "cpu"
    assert metric["resource"]["target"]["type"] == "AverageValue"
