"""An installation in Kubernetes for tests: in a namespace that they make and remove, reached by node ports."""

from __future__ import annotations

import base64
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.support.forks import ROOT
from tests.support.kubectl import Namespace, kubectl
from tests.support.remote_stack import CHAOS_JOBS, RemoteStack
from tests.support.waiting import until

BASE = ROOT / "k8s"
EXTRAS = Path(__file__).with_name("cluster.yaml")
ROLES = ("web", "worker", "beat", "flower")
BUILT = (*ROLES, "dev")
#: Where their nodes' ports answer.
NODE = os.environ.get("TEST_NODE_ADDRESS", "127.0.0.1")


class KubernetesStack(Namespace, RemoteStack):
    """One namespace, with settings as its ConfigMap has them; there is one at a time, for a node has little room."""

    current: ClassVar[KubernetesStack | None] = None

    def __init__(self, namespace: str, **settings: str) -> None:
        super().__init__(namespace)
        self.settings = settings

    def take_place(self) -> None:
        """Remove the installation that stands, for another that is about to."""
        if KubernetesStack.current:
            KubernetesStack.current.remove()
        KubernetesStack.current = self

    def create(self, **labels: str) -> None:
        """Make the namespace, in place of the one that was made before."""
        self.take_place()
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": labels},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))

    def apply(self, *what: str) -> str:
        """Apply files of the repository; the base if nothing is said."""
        return self.kubectl("apply", *(what or ("-f", "k8s/")), timeout=120)

    def add(self, component: str) -> list[Any]:
        """Apply what a component of k8s/ adds to the base; return those objects."""
        with tempfile.TemporaryDirectory() as folder:
            base = os.path.relpath(BASE, folder)
            overlay = {
                "namespace": self.namespace,
                "resources": [base],
                "components": [f"{base}/{component}"],
            }
            (Path(folder) / "kustomization.yaml").write_text(json.dumps(overlay))
            built = list(yaml.safe_load_all(self.kubectl("kustomize", folder)))
        bare = list(yaml.safe_load_all(self.kubectl("kustomize", str(BASE))))
        there = [(one["kind"], one["metadata"]["name"]) for one in bare]
        added = [one for one in built if (one["kind"], one["metadata"]["name"]) not in there]
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(added))
        return added

    def take_away(self, objects: list[Any]) -> None:
        self.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def available(self, *names: str, timeout: int = 180) -> None:
        """Wait until Deployments are available, as the documentation has it."""
        which = [f"deploy/{name}" for name in names] or ["deploy", "--all"]
        self.kubectl(
            "wait", "--for=condition=Available", *which, f"--timeout={timeout}s", timeout=timeout + 30
        )

    def rolled_out(self, *names: str, timeout: int = 180) -> None:
        """Wait until nothing of an earlier template is left."""
        for name in names:
            self.kubectl("rollout", "status", name, f"--timeout={timeout}s", timeout=timeout + 30)

    def remove(self) -> None:
        """Remove the namespace and all in it; call it at the end, however it went."""
        if KubernetesStack.current is not self:
            return
        self._forget()
        kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
        self.tried("delete", "pods", "--all", "--grace-period=1", "--wait=false")
        kubectl("wait", "--for=delete", f"namespace/{self.namespace}", "--timeout=150s", timeout=180)
        KubernetesStack.current = None

    # --- Settings ------------------------------------------------------------------------------------------------------

    def configure(self, **settings: str) -> None:
        """Change settings, with what tests add: ports on the node, job types, mail; pods start anew with them.

        The pods' grace follows DRAIN_SECONDS, as the manifests have it.
        """
        self.settings |= settings
        self.open_doors()
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self._tests()))
        self.patch("secret", "esteira", {"stringData": {"email_url": "smtp://mail:1025"}})
        self.patch("configmap", "esteira", {"data": {"JOB_PACKAGES": CHAOS_JOBS, **self.settings}})
        for role in ROLES:
            self.patch("deployment", role, {"spec": {"template": self.with_tests(role)}})
        self.kubectl("rollout", "restart", *(f"deploy/{role}" for role in ROLES))
        self.rolled_out(*(f"deploy/{role}" for role in (*ROLES, "mail")))
        self._forget()

    def open_doors(self) -> None:
        """Publish the ports of web, Flower and the servers on the node, and return once they answer."""
        self.kubectl("apply", "-f", str(EXTRAS))
        for name in ("web", "flower", "postgres", "redis"):
            until(lambda: is_open(self.port(name)), f"{name} answers on the node")  # noqa: B023

    def _tests(self) -> dict[str, Any]:
        """The job types of the tests, as pods mount them."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tests"},
            "data": {key: (ROOT / path).read_text() for key, path in _test_files().items()},
        }

    def with_tests(self, role: str) -> dict[str, Any]:
        mount = {"name": "tests", "mountPath": "/app/tests", "readOnly": True}
        items = [{"key": key, "path": path.removeprefix("tests/")} for key, path in _test_files().items()]
        spec: dict[str, Any] = {
            "volumes": [{"name": "tests", "configMap": {"name": "tests", "items": items}}],
            "containers": [{"name": role, "volumeMounts": [mount]}],
        }
        if role in ("web", "worker", "beat"):
            spec["initContainers"] = [{"name": "migrate", "volumeMounts": [mount]}]
        if role == "worker" and "DRAIN_SECONDS" in self.settings:
            spec["terminationGracePeriodSeconds"] = int(float(self.settings["DRAIN_SECONDS"])) + 10
        return {"spec": spec}

    # --- Pods ----------------------------------------------------------------------------------------------------------

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a part that are not being deleted."""
        found = self.get("pods", **{"app.kubernetes.io/name": name})
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, name: str) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods(name))

    def ready(self, name: str) -> list[str]:
        """Name the pods of a part that are ready."""
        return sorted(pod["metadata"]["name"] for pod in self.pods(name) if _is_ready(pod))

    def scale(self, name: str, many: int, *, wait: bool = True) -> None:
        self.kubectl("scale", f"deploy/{name}", f"--replicas={many}")
        if wait:
            until(
                lambda: len(self.ready(name)) == len(self.names(name)) == many,
                f"{many} × {name}",
                timeout=180,
            )

    def delete_pods(self, *names: str, force: bool = False) -> None:
        """Delete pods; with force at once, as if their node were gone, else with their grace and without waiting."""
        how = ["--grace-period=0", "--force"] if force else ["--wait=false"]
        self.kubectl("delete", "pod", *names, *how)

    def execute(self, service: str, *command: str) -> str:
        kind = "statefulset" if service in ("postgres", "redis") else "deploy"
        return self.kubectl("exec", f"{kind}/{service}", "--", *command)

    def logs(self, *arguments: str) -> str:
        return self.kubectl("logs", *arguments)

    def last_words(self) -> dict[str, str]:
        logs = self.tried("logs", "-l", "app.kubernetes.io/part-of=esteira", "--tail=25", "--prefix")
        return {
            "pods": self.tried("get", "pods", "-o", "wide").stdout,
            "events": self.tried("get", "events").stdout[-4000:],
            "logs": logs.stdout[-12_000:],
        }

    def names_of(self, worker: str) -> str:
        return f"celery@{worker}/"

    # --- Where it is ---------------------------------------------------------------------------------------------------

    def secret(self, key: str) -> str:
        return base64.b64decode(self.get("secret", "esteira")["data"][key]).decode()

    def admin_password(self) -> str:
        return self.secret("admin_password")

    def port(self, name: str) -> int:
        return int(self.get("service", f"outside-{name}")["spec"]["ports"][0]["nodePort"])

    @cached_property
    def web_url(self) -> str:  # type: ignore[override]
        return f"http://{NODE}:{self.port('web')}"

    @cached_property
    def flower_url(self) -> str:  # type: ignore[override]
        return f"http://{NODE}:{self.port('flower')}"

    def database_url(self) -> str:
        return (
            f"postgresql://esteira:{self.secret('postgres_password')}@{NODE}:{self.port('postgres')}/esteira"
        )

    def redis_url(self, user: str = "esteira") -> str:
        key = {
            "esteira": "redis_password",
            "flower": "redis_flower_password",
            "admin": "redis_admin_password",
        }[user]
        return f"redis://{user}:{self.secret(key)}@{NODE}:{self.port('redis')}/0"


def is_open(port: int) -> bool:
    try:
        with socket.create_connection((NODE, port), timeout=1):
            return True
    except OSError:
        return False


def _test_files() -> dict[str, str]:
    """Return the tests' job types by a key that a ConfigMap takes."""
    support = ROOT / "tests" / "support"
    files: Sequence[Path] = [support / "ticking_jobs.py", *sorted((support / "chaos_jobs").glob("*.py"))]
    paths = [str(file.relative_to(ROOT)) for file in files]
    return {path.replace("/", "."): path for path in paths}


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
