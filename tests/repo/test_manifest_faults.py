"""Each check of manifest_faults finds its fault, so that no check passes because it looked at nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.repo.manifest_faults import (
    Objects,
    doors,
    faults,
    of_kind,
    pods,
    ports,
    references,
    restricted,
    scaling,
    selectors,
    unique,
)
from tests.repo.manifests import base


def _pod(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (pod,) = [pod for pod in pods(objects) if pod.name == name]
    return pod.spec


def _named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def _scaler(kind: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "worker"}, "spec": {"scaleTargetRef": {"name": "worker"}}}


Plant = Callable[[list[dict[str, Any]]], Any]
PLANTED: dict[str, tuple[Callable[[Objects], list[str]], str, Plant]] = {
    "root": (restricted, "web: may run as root", lambda o: _pod(o, "web")["securityContext"].pop("runAsNonRoot")),
    "seccomp": (restricted, "beat: may make any", lambda o: _pod(o, "beat")["securityContext"].pop("seccompProfile")),
    "host network": (restricted, "shares something", lambda o: _pod(o, "web").update(hostNetwork=True)),
    "service links": (restricted, "flower: gets a variable", lambda o: _pod(o, "flower").pop("enableServiceLinks")),
    "token": (restricted, "has a token", lambda o: _pod(o, "web").update(automountServiceAccountToken=True)),
    "host path": (
        restricted,
        "mounts a hostPath",
        lambda o: _pod(o, "web")["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    ),
    "endless folder": (restricted, "sizeLimit", lambda o: _pod(o, "web")["volumes"].append({"name": "x", "emptyDir": {}})),
    "capability": (
        restricted,
        "container migrate is not hardened",
        lambda o: _pod(o, "web")["initContainers"][0].update(securityContext={"capabilities": {"add": ["NET_RAW"]}}),
    ),
    "no limits": (restricted, "has no limits", lambda o: _pod(o, "worker")["containers"][0]["resources"].pop("limits")),
    "host port": (
        restricted,
        "takes a port",
        lambda o: _pod(o, "web")["containers"][0]["ports"].append({"containerPort": 1, "hostPort": 1}),
    ),
    "unknown key": (
        references,
        "nobody makes the key pasword",
        lambda o: _pod(o, "web")["containers"][0]["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "esteira", "key": "pasword"}}}
        ),
    ),
    "no settings": (references, "there is no ConfigMap esteira", lambda o: o.remove(_named(o, "ConfigMap", "esteira"))),
    "no account": (references, "no ServiceAccount esteira", lambda o: o.remove(_named(o, "ServiceAccount", "esteira"))),
    "no claim": (references, "PersistentVolumeClaim flower", lambda o: o.remove(_named(o, "PersistentVolumeClaim", "flower"))),
    "server": (
        references,
        "no Service pg",
        lambda o: _pod(o, "web")["containers"][0]["env"].append({"name": "PGHOST", "value": "pg"}),
    ),
    "budget for nobody": (
        selectors,
        "PodDisruptionBudget web: no pod",
        lambda o: _named(o, "PodDisruptionBudget", "web")["spec"].update(selector={"matchLabels": {"app": "web"}}),
    ),
    "peer that is not there": (
        selectors,
        "NetworkPolicy redis: no pod",
        lambda o: _named(o, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"].append(
            {"podSelector": {"matchLabels": {"app": "cache"}}}
        ),
    ),
    "open pod": (selectors, "web: no policy closes it", lambda o: o.remove(_named(o, "NetworkPolicy", "nothing"))),
    "wrong port": (
        ports,
        "Service web: no container",
        lambda o: _named(o, "Service", "web")["spec"]["ports"][0].update(port=80),
    ),
    "policy for a wrong port": (
        ports,
        "NetworkPolicy web: nobody listens on 8080",
        lambda o: _named(o, "NetworkPolicy", "web")["spec"]["ingress"][0]["ports"][0].update(port=8080),
    ),
    "ingress to nobody": (
        ports,
        "Ingress: no Service",
        lambda o: o.append(
            {
                "kind": "Ingress",
                "metadata": {"name": "x"},
                "spec": {
                    "rules": [{"http": {"paths": [{"backend": {"service": {"name": "x", "port": {"name": "y"}}}}]}}]
                },
            }
        ),
    ),
    "route to nobody": (
        ports,
        "HTTPRoute: no Service",
        lambda o: o.append(
            {
                "kind": "HTTPRoute",
                "metadata": {"name": "x"},
                "spec": {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
            }
        ),
    ),
    "two doors": (
        doors,
        "HTTPRoute and Ingress lead in",
        lambda o: o.extend([{"kind": "Ingress"}, {"kind": "HTTPRoute"}]),
    ),
    "keda and hpa": (
        scaling,
        "worker is scaled by two; take keda or hpa",
        lambda o: o.extend([_scaler("ScaledObject"), _scaler("HorizontalPodAutoscaler")]),
    ),
    "web's scaling undone": (
        scaling,
        "web: an apply would undo",
        lambda o: o.append({**_scaler("HorizontalPodAutoscaler"), "spec": {"scaleTargetRef": {"name": "web"}}}),
    ),
    "scaling undone": (scaling, "worker: an apply would undo", lambda o: _named(o, "Deployment", "worker")["spec"].update(replicas=1)),
    "twice": (unique, "is there twice", lambda o: o.append(_named(o, "Service", "web"))),
    "nobody's": (unique, "does not say whose", lambda o: _named(o, "Service", "web")["metadata"].pop("labels")),
    "elsewhere": (unique, "several namespaces", lambda o: _named(o, "Service", "web")["metadata"].update(namespace="x")),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    check, said, plant = PLANTED[fault]
    objects = copy.deepcopy(list(base()))

    plant(objects)

    assert any(said in found for found in check(objects)), check(objects)


def test_nothing_is_found_where_nothing_was_planted() -> None:
    assert not faults(base())
