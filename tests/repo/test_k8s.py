"""What `kubectl apply -f k8s/` applies, as it is written: hardened, the same as compose's, and safe to apply twice."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.kubernetes.keys import missing_of
from tests.repo.compose_files import filled
from tests.repo.test_env_example import shown
from tests.repo.tree import ROOT, files, text

K8S = [path for path in files() if path.match("k8s/*.yaml")]
OURS = ("web", "worker", "beat", "flower")
SERVERS = ("redis", "postgres")
GRACE_S = 10  # beside the drain: to hand back and leave
#: Where compose names a file, a pod is told the value.
NAMED_BY_FILE = "_FILE"


def objects() -> list[dict[str, Any]]:
    return [one for path in K8S for one in yaml.safe_load_all(text(path))]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects() if one["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in of_kind(kind) if one["metadata"]["name"] == name]
    return found


def pod_of(name: str) -> dict[str, Any]:
    kind = "StatefulSet" if name in SERVERS else "Deployment"
    return dict(named(kind, name)["spec"]["template"]["spec"])


def containers(name: str) -> list[dict[str, Any]]:
    pod = pod_of(name)
    return [*pod.get("initContainers", []), *pod["containers"]]


def main_container(name: str) -> dict[str, Any]:
    (found,) = pod_of(name)["containers"]
    return dict(found)


PODS = (*OURS, *SERVERS, "keys")


def compose() -> dict[str, Any]:
    read = [yaml.safe_load(filled(text(Path(f"compose/{name}.yaml")))) for name in ("data", "app")]
    return {**read[0]["services"], **read[1]["services"]}


# --- The folder ----------------------------------------------------------------------------------------------------------


def test_both_ways_of_applying_the_folder_find_the_same_files() -> None:
    listed = yaml.safe_load((ROOT / "k8s" / "Kustomization").read_text())["resources"]

    assert sorted(listed) == listed == sorted(path.name for path in K8S)
    assert not [path for path in files() if path.match("k8s/kustomization.y*ml")]


def test_nothing_says_where_it_runs_or_needs_what_a_cluster_may_lack() -> None:
    assert not [one for one in objects() if "namespace" in one["metadata"]]
    kinds = {(one["apiVersion"], one["kind"]) for one in objects()}
    assert {version for version, _ in kinds} <= {
        "v1",
        "apps/v1",
        "networking.k8s.io/v1",
        "policy/v1",
        "rbac.authorization.k8s.io/v1",
    }


def test_no_variable_is_written_with_an_empty_value() -> None:
    """The server stores such a variable without its value, so that each apply would change it again."""
    manifests = [path for path in files() if path.suffix == ".yaml" and path.parts[0] in ("k8s", "deploy")]
    found = [str(path) for path in manifests if 'value: ""' in text(path)]

    assert not found, "write the name alone: the variable is empty then"


def test_everything_says_whose_it_is() -> None:
    for one in objects():
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "esteira", one["metadata"]["name"]


def test_an_apply_undoes_no_scaling_and_is_never_refused() -> None:
    assert "replicas" not in named("Deployment", "worker")["spec"]
    assert not of_kind("Job"), "Kubernetes changes no Job that is there, and one that is gone is a difference"
    assert "data" not in named("Secret", "esteira")
    assert "stringData" not in named("Secret", "esteira")


# --- Hardened ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_but_its_work(name: str) -> None:
    pod = pod_of(name)

    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is (name == "keys")
    assert pod["serviceAccountName"] == ("esteira-keys" if name == "keys" else "esteira")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == (999 if name in SERVERS else 10001)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    for container in containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert (
            set(container["resources"]["requests"])
            == set(container["resources"]["limits"])
            == {"cpu", "memory"}
        )
        assert container["imagePullPolicy"] == "IfNotPresent"


def test_one_pod_may_read_and_patch_one_secret_and_no_other_may_do_anything() -> None:
    (role,) = of_kind("Role", "ClusterRole")

    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["esteira"], "verbs": ["get", "patch"]}
    ]
    assert all(one["automountServiceAccountToken"] is False for one in of_kind("ServiceAccount"))


def test_every_key_that_a_pod_waits_for_is_made() -> None:
    asked = {
        entry["valueFrom"]["secretKeyRef"]["key"]
        for name in PODS
        for container in containers(name)
        for entry in container.get("env", [])
        if "secretKeyRef" in entry.get("valueFrom", {})
        and not entry["valueFrom"]["secretKeyRef"].get("optional")
    }

    # The component exporters asks for the first; the second is in an address; the third is no other server's.
    others = {"postgres_metrics_password", "postgres_app_password", "database_owner_url"}
    assert asked == set(missing_of({})) - others


def test_what_runs_or_loads_jobs_reads_their_secret_if_there_is_one_and_no_setting_from_it() -> None:
    """Of two sources the later one wins, and what stands in `env` wins over both."""
    for name in PODS:
        for container in containers(name):
            sources = container.get("envFrom", [])
            own = [n for n, source in enumerate(sources) if "secretRef" in source]
            assert own == ([0] if name in ("web", "worker", "beat") else []), name
            if own:
                assert sources[0] == {"secretRef": {"name": "jobs", "optional": True}}
                assert sources[1:] == [{"configMapRef": {"name": "esteira"}}]


def test_no_password_stands_in_the_repository() -> None:
    for name in PODS:
        for container in containers(name):
            for entry in container.get("env", []):
                secret = re.search("PASSWORD|SECRET|URL|AUTH", entry["name"])
                harmless = name == "flower" and entry["name"] in ("SECRET_KEY", "DATABASE_URL")
                is_empty = entry.keys() == {"name"}
                assert not secret or harmless or is_empty or "secretKeyRef" in entry["valueFrom"], entry


# --- The same as compose's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OURS, *SERVERS])
def test_images_are_those_of_compose(name: str) -> None:
    """In a folder called esteira, from where `kind load` takes them."""
    ours = "esteira" if name in OURS else ""

    assert main_container(name)["image"] == f"{ours}{compose()[name]['image']}"


@pytest.mark.parametrize("name", OURS)
def test_commands_and_ports_are_those_of_the_image(name: str) -> None:
    stage = text(Path("services/Dockerfile")).split(f"FROM base AS {name}\n")[1].split("\nFROM ")[0]
    exposed = [int(port) for port in re.findall(r"^EXPOSE (\d+)", stage, re.MULTILINE)]
    ports = [port["containerPort"] for port in main_container(name).get("ports", [])]

    assert "command" not in main_container(name) and "args" not in main_container(name)
    assert ports == exposed


@pytest.mark.parametrize("name", ["worker", "beat", "flower"])
def test_health_is_asked_as_compose_asks(name: str) -> None:
    stage = text(Path("services/Dockerfile")).split(f"FROM base AS {name}\n")[1].split("\nFROM ")[0]
    (asked,) = re.findall(r"^HEALTHCHECK .* CMD (.+)$", stage, re.MULTILINE)
    probe = "readinessProbe" if name == "flower" else "livenessProbe"

    assert main_container(name)[probe]["exec"]["command"] == yaml.safe_load(asked)


@pytest.mark.parametrize("name", SERVERS)
def test_servers_start_and_are_asked_as_in_compose(name: str) -> None:
    theirs, ours = compose()[name], main_container(name)

    started = [*ours.get("command", []), *ours.get("args", [])]
    assert started == [*theirs.get("entrypoint", []), *theirs["command"]]
    assert ours["readinessProbe"]["exec"]["command"] == theirs["healthcheck"]["test"][1:]


@pytest.mark.parametrize("name", [*OURS, *SERVERS])
def test_a_container_is_told_what_compose_tells_it(name: str) -> None:
    settings = named("ConfigMap", "esteira")["data"]
    told = {entry["name"] for entry in main_container(name).get("env", [])}
    wanted = {key.removesuffix(NAMED_BY_FILE) for key in compose()[name].get("environment", {})}
    by_settings = set(settings) if name in OURS else set()

    if name == "redis":
        assert told == {
            "REDIS_PASSWORD",
            "REDIS_FLOWER_PASSWORD",
            "REDIS_ADMIN_PASSWORD",
            "REDIS_METRICS_PASSWORD",
        }  # compose gives files
        return
    missing = wanted - told - by_settings - ({"EMAIL_URL"} if name in ("beat", "flower") else set())
    assert not missing
    assert told <= wanted | {"PGDATA"}


def test_each_setting_is_a_variable_with_the_default_that_is_documented() -> None:
    settings = named("ConfigMap", "esteira")["data"]
    documented = {one.name: one.default for one in shown()}
    otherwise = {"ALLOWED_HOSTS", "CONCURRENCY", "FLOWER_METRICS", "FLOWER_URL", "LOG_FORMAT", "WEB_URL"}
    otherwise |= {"DATA_DIR", "MANAGE_COMMAND", "MIGRATE_COMMAND", "RUN_DIR"}

    assert list(settings) == sorted(settings)
    assert not set(settings) - set(documented)
    differing = {key for key, value in settings.items() if str(documented[key]) != value}
    assert differing <= otherwise, {key: (settings[key], documented[key]) for key in differing - otherwise}


@pytest.mark.parametrize(("name", "folder"), [("redis", "compose/redis"), ("postgres", "compose/postgres")])
def test_servers_are_configured_by_the_files_of_compose(name: str, folder: str) -> None:
    for file, content in named("ConfigMap", name)["data"].items():
        assert content == text(Path(folder) / file), file


# --- In order ------------------------------------------------------------------------------------------------------------


def test_durations_are_in_order() -> None:
    settings = named("ConfigMap", "esteira")["data"]
    gunicorn = runpy.run_path(str(ROOT / "services" / "web" / "gunicorn.conf.py"))
    (_, pause) = main_container("web")["lifecycle"]["preStop"]["exec"]["command"]

    assert pod_of("worker")["terminationGracePeriodSeconds"] == float(settings["DRAIN_SECONDS"]) + GRACE_S
    assert pod_of("web")["terminationGracePeriodSeconds"] > int(pause) + gunicorn["graceful_timeout"]
    for name in OURS:
        theirs = compose()[name]["stop_grace_period"]
        total = sum(float(part) for part in re.findall(r"[\d.]+", theirs))
        assert pod_of(name)["terminationGracePeriodSeconds"] == total, name


def test_selectors_find_what_is_there() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind("Deployment", "StatefulSet")]

    def found(selector: dict[str, Any]) -> bool:
        wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        rules = selector.get("matchExpressions", [])
        return any(
            wanted.items() <= each.items() and all(each[rule["key"]] in rule["values"] for rule in rules)
            for each in labels
        )

    for one in of_kind("Service"):
        assert found(one["spec"]["selector"]), one["metadata"]["name"]
    for one in of_kind("PodDisruptionBudget"):
        assert found(one["spec"]["selector"]), one["metadata"]["name"]
    for one in of_kind("NetworkPolicy"):
        assert found(one["spec"]["podSelector"]), one["metadata"]["name"]


def test_services_name_ports_that_containers_have() -> None:
    for one in of_kind("Service"):
        ports = {
            port["name"]: port["containerPort"] for port in main_container(one["metadata"]["name"])["ports"]
        }
        assert all(ports[port["targetPort"]] == port["port"] for port in one["spec"]["ports"])
