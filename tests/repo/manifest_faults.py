"""What can be wrong with objects of Kubernetes taken together; each check returns one sentence for each fault."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from project.kubernetes.keys import missing_of

Objects = Sequence[dict[str, Any]]

OURS = {"app.kubernetes.io/part-of": "esteira"}
#: The only ones that ask Kubernetes for anything.
MAY_ASK = {"keys", "scale-in"}
#: Servers that somebody else's may replace: then a policy for them selects nothing.
REPLACEABLE = {"postgres", "redis"}
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod template, whoever makes pods of it."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def environment(self) -> Iterator[dict[str, Any]]:
        for container in self.containers():
            yield from container.get("env", [])


def pods(objects: Objects) -> list[Pod]:
    found = []
    for one in objects:
        spec = one.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
        if "containers" in template.get("spec", {}):
            labels = template["metadata"]["labels"]
            found.append(Pod(name=one["metadata"]["name"], labels=labels, spec=template["spec"]))
    return found


def of_kind(objects: Objects, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def names(objects: Objects, kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in of_kind(objects, kind)}


def faults(objects: Objects) -> list[str]:
    return [fault for check in CHECKS for fault in check(objects)]


# --- A pod by itself -----------------------------------------------------------------------------------------------------


def restricted(objects: Objects) -> list[str]:
    """Pod Security Standard "restricted", and what it leaves open."""
    return [f"{pod.name}: {fault}" for pod in pods(objects) for fault in _of_pod(pod)]


def _of_pod(pod: Pod) -> Iterator[str]:
    security = pod.spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "may run as root: set runAsNonRoot and a runAsUser"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "may make any system call: set seccompProfile RuntimeDefault"
    if {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec):
        yield "shares something with its host"
    if pod.spec.get("enableServiceLinks") is not False:
        yield "gets a variable for each Service: set enableServiceLinks false"
    if pod.spec.get("automountServiceAccountToken") is not (pod.name in MAY_ASK):
        yield "has a token that it does not need, or lacks one: say automountServiceAccountToken"
    for volume in pod.spec.get("volumes", []):
        (kind,) = set(volume) - {"name"}
        if kind not in VOLUMES:
            yield f"mounts a {kind}"
        if kind == "emptyDir" and "sizeLimit" not in volume[kind]:
            yield f"may fill its node by {volume['name']}: set a sizeLimit"
    for container in pod.containers():
        yield from _of_container(container)


def _of_container(container: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    if container.get("securityContext") != HARDENED:
        yield f"container {name} is not hardened as the others are"
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        if set(resources.get(kind, {})) != {"cpu", "memory"}:
            yield f"container {name} has no {kind} of cpu and memory"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"container {name} takes a port of its host"


# --- What refers to what -------------------------------------------------------------------------------------------------


def references(objects: Objects) -> list[str]:
    """What a pod waits for, and would wait for in vain."""
    made = set(missing_of({}))
    return [f"{pod.name}: {fault}" for pod in pods(objects) for fault in _missing(objects, pod, made)]


def _missing(objects: Objects, pod: Pod, made: Collection[str]) -> Iterator[str]:
    if pod.spec["serviceAccountName"] not in names(objects, "ServiceAccount"):
        yield f"there is no ServiceAccount {pod.spec['serviceAccountName']}"
    yield from _missing_sources(objects, pod)
    for entry in pod.environment():
        secret = entry.get("valueFrom", {}).get("secretKeyRef")
        if (
            secret
            and not secret.get("optional")
            and (secret["name"] != "esteira" or secret["key"] not in made)
        ):
            yield f"nobody makes the key {secret['key']} of the Secret {secret['name']}"
        if entry["name"] in ("PGHOST", "REDIS_ADDR"):
            host = entry["value"].removeprefix("redis://").partition(":")[0]
            if host not in names(objects, "Service"):
                yield f"there is no Service {host}"
    claimed = names(objects, "PersistentVolumeClaim")
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume and volume["configMap"]["name"] not in names(objects, "ConfigMap"):
            yield f"there is no ConfigMap {volume['configMap']['name']}"
        if "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] not in claimed:
            yield f"there is no PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']}"


def _missing_sources(objects: Objects, pod: Pod) -> Iterator[str]:
    for source in [each for c in pod.containers() for each in c.get("envFrom", [])]:
        for kind, named in (("ConfigMap", source.get("configMapRef")), ("Secret", source.get("secretRef"))):
            if named and not named.get("optional") and named["name"] not in names(objects, kind):
                yield f"there is no {kind} {named['name']}"


def selectors(objects: Objects) -> list[str]:
    """Services, budgets and policies that find nobody, and pods that no policy closes."""
    there = pods(objects)
    found = []
    for one in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        own = spec["podSelector"] if one["kind"] == "NetworkPolicy" else spec["selector"]
        rules = [rule for way in ("ingress", "egress") for rule in spec.get(way, [])]
        peers = [peer for rule in rules for peer in (*rule.get("from", []), *rule.get("to", []))]
        wanted = [
            own,
            *(p["podSelector"] for p in peers if "podSelector" in p and "namespaceSelector" not in p),
        ]
        found += [
            f"{one['kind']} {one['metadata']['name']}: no pod has {selector}"
            for selector in wanted
            if not any(selects(selector, pod.labels) for pod in there) and not _replaced(selector)
        ]
    closed = [one["spec"]["podSelector"] for one in of_kind(objects, "NetworkPolicy") if _closes(one["spec"])]
    found += [
        f"{pod.name}: no policy closes it; label it app.kubernetes.io/part-of: esteira"
        for pod in there
        if not any(selects(selector, pod.labels) for selector in closed)
    ]
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector finds what has these labels; a Service's is a plain map."""
    plain = "matchLabels" not in selector and "matchExpressions" not in selector
    wanted = selector if plain else selector.get("matchLabels", {})
    rules = selector.get("matchExpressions", [])
    return wanted.items() <= labels.items() and all(labels.get(r["key"]) in r["values"] for r in rules)


def _replaced(selector: dict[str, Any]) -> bool:
    return selector.get("matchLabels", {}).get("app.kubernetes.io/name") in REPLACEABLE


def _closes(spec: dict[str, Any]) -> bool:
    return (
        sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
        and not spec.get("ingress")
        and not spec.get("egress")
    )


def ports(objects: Objects) -> list[str]:
    """Services, an Ingress, an HTTPRoute and policies that name a port on which nobody listens."""
    there, found = pods(objects), []
    for one in of_kind(objects, "Service"):
        behind = [pod for pod in there if selects(one["spec"]["selector"], pod.labels)]
        listening = {p["name"]: p["containerPort"] for pod in behind for p in _ports(pod)}
        found += [
            f"Service {one['metadata']['name']}: no container has the port {port['targetPort']} as {port['port']}"
            for port in one["spec"]["ports"]
            if listening.get(port["targetPort"]) != port["port"]
        ]
    served = {
        (s["metadata"]["name"], p["name"]) for s in of_kind(objects, "Service") for p in s["spec"]["ports"]
    }
    for one in of_kind(objects, "Ingress"):
        backends = [
            path["backend"]["service"] for rule in one["spec"]["rules"] for path in rule["http"]["paths"]
        ]
        found += [
            f"Ingress: no Service {b}" for b in backends if (b["name"], b["port"]["name"]) not in served
        ]
    open_ports = {
        (s["metadata"]["name"], p["port"]) for s in of_kind(objects, "Service") for p in s["spec"]["ports"]
    }
    for one in of_kind(objects, "HTTPRoute"):
        routed = [backend for rule in one["spec"]["rules"] for backend in rule["backendRefs"]]
        found += [f"HTTPRoute: no Service {b}" for b in routed if (b["name"], b["port"]) not in open_ports]
    for one in of_kind(objects, "NetworkPolicy"):
        selected = [pod for pod in there if selects(one["spec"]["podSelector"], pod.labels)]
        listens = {p["containerPort"] for pod in selected for p in _ports(pod)}
        found += [
            f"NetworkPolicy {one['metadata']['name']}: nobody listens on {port['port']}"
            for rule in one["spec"].get("ingress", [])
            for port in rule.get("ports", [])
            if selected and port["port"] not in listens
        ]
    return found


def doors(objects: Objects) -> list[str]:
    """Two ways in from outside, of which the policy for web knows one."""
    there = sorted({one["kind"] for one in of_kind(objects, "Ingress", "HTTPRoute")})
    if len(there) < 2:
        return []
    return [f"{' and '.join(there)} lead in, and a policy lets one of them: take ingress or gateway"]


def _ports(pod: Pod) -> list[dict[str, Any]]:
    return [port for container in pod.containers() for port in container.get("ports", [])]


def scaling(objects: Objects) -> list[str]:
    """Two who scale the same, or an apply that would undo what one of them did."""
    found, owned = [], []
    for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        owned.append(one["spec"]["scaleTargetRef"]["name"])
    found += [
        f"{name} is scaled by two; take keda or hpa" for name in sorted(set(owned)) if owned.count(name) > 1
    ]
    for one in of_kind(objects, "Deployment"):
        name = one["metadata"]["name"]
        if "replicas" in one["spec"] and (name in owned or name == "worker"):
            found.append(f"{name}: an apply would undo its scaling; leave replicas out")
    return found


def unique(objects: Objects) -> list[str]:
    """An object that is there twice, without the label that says whose it is, or outside the others' namespace."""
    seen: set[tuple[str, str]] = set()
    found, places = [], set()
    for one in objects:
        key = (one["kind"], one["metadata"]["name"])
        found += [f"{key} is there twice"] if key in seen else []
        seen.add(key)
        if one["kind"] != "Namespace":
            places.add(one["metadata"].get("namespace"))
            if not OURS.items() <= one["metadata"].get("labels", {}).items():
                found.append(f"{key} does not say whose it is: app.kubernetes.io/part-of")
    return found + ([f"several namespaces: {places}"] if len(places) > 1 else [])


CHECKS: tuple[Callable[[Objects], list[str]], ...] = (
    restricted,
    references,
    selectors,
    ports,
    doors,
    scaling,
    unique,
)
