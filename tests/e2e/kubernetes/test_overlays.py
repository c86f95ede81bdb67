"""The overlays of deploy/, as docs/kubernetes.md has them: each in a namespace of its own, with what it can take in."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificate
from tests.support.documents import printed
from tests.support.forks import ROOT
from tests.support.kubernetes_stack import KubernetesStack
from tests.support.waiting import until

pytestmark = pytest.mark.long

PASSWORD = "given-by-somebody-else"


class Placed(KubernetesStack):
    """An overlay in a copy of the folders, which is where somebody changes what docs/kubernetes.md says."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(f"esteira-{name}-{os.getpid()}")
        self.folder = folder
        self.overlay = folder / "deploy" / name
        for each in ("k8s", "deploy"):
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("secrets.env"))
        self.change("kustomization.yaml", r"(?m)^namespace: .*", f"namespace: {self.namespace}")
        self.change("namespace.yaml", r"(?m)^  name: .*", f"  name: {self.namespace}")

    def change(self, file: str, pattern: str, replacement: str) -> None:
        path = self.overlay / file
        text, changes = re.subn(pattern, replacement, path.read_text())
        assert changes, f"{file} has no {pattern}"
        path.write_text(text)

    def take_in(self, *components: str) -> None:
        for component in components:
            self.change("kustomization.yaml", rf"(?m)^#(  - \.\./\.\./k8s/{component} )", r"\1")

    def give(self, **secrets: str) -> None:
        """Write secrets.env, and take in what reads it."""
        self.type(printed("docs/kubernetes.md", "cp deploy/prod/secrets.env.example"))
        for name, value in secrets.items():
            self.change("secrets.env", rf"(?m)^#{name}=.*", f"{name}={value}")
        self.change("kustomization.yaml", r"(?m)^#(  - name: esteira\n)#(.*\n)#(.*\n)#(.*\n)", r"\1\2\3\4")

    def install(self) -> None:
        """Start deploy/prod."""
        lines = printed(
            "docs/kubernetes.md",
            "kubectl apply -k deploy/prod\nkubectl config",
            {"--namespace=esteira": f"--namespace={self.namespace}"},
        )
        self.type(lines, timeout=400)

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a job to its end by the command line in a pod."""
        told = self.kubectl("exec", "deploy/web", "--", *arguments, "--wait", "--json", timeout=120)
        return dict(json.loads(told))

    def greet(self, name: str) -> str:
        found = self.run("manage", "jobs", "submit", "demo.greet", f"name={name}")
        assert found["state"] == "succeeded", found
        return str(found["id"])

    def knows(self, job: str) -> bool:
        return self.tried("exec", "deploy/web", "--", "manage", "jobs", "show", job).returncode == 0

    def log_level(self) -> str:
        return self.execute("worker", "printenv", "LOG_LEVEL").strip()


@contextmanager
def placed(name: str, folder: Path) -> Iterator[Placed]:
    stack = Placed(name, folder)
    stack.take_place()
    try:
        yield stack
    finally:
        stack.remove()


@pytest.mark.usefixtures("loaded_images")
def test_prod_is_backed_up_restored_upgraded_and_put_back(tmp_path: Path) -> None:
    """All that docs/kubernetes.md says of it, in one installation."""
    with placed("prod", tmp_path) as stack:
        stack.take_in("backup", "scale-in", "hpa-web")
        stack.install()
        assert stack.warnings == ""
        kept = stack.greet("Ana")
        said = stack.type(printed("docs/kubernetes.md", "kubectl delete job backup-now"), timeout=400)
        (dump,) = set(re.findall(r"esteira-\d{8}T\d{6}Z\.dump", said))
        assert dump in stack.type(
            printed("docs/kubernetes.md", "kubectl logs -l app.kubernetes.io/name=backup")
        )
        after = stack.greet("Rui")
        assert stack.knows(kept) and stack.knows(after)

        stack.kubectl("scale", "deploy/scale-in", "--replicas=0")
        back = printed(
            "docs/kubernetes.md",
            "kubectl scale deploy/web deploy/worker",
            {"esteira-20261125T031502Z.dump": dump},
        )
        assert "is restored" in stack.type(back, timeout=400), "it waits for those that were told to stop"
        stack.type(printed("docs/kubernetes.md", "kubectl delete job restore-now"))
        assert not stack.names("web"), "an apply leaves the number of web to its HPA, which leaves none alone"
        stack.kubectl("scale", "deploy/web", "--replicas=1")
        until(lambda: len(stack.ready("web")) == 2, "the HPA has made two of one", timeout=120)
        stack.available()
        assert stack.knows(kept) and not stack.knows(after)
        stack.greet("Eva")

        stack.change("kustomization.yaml", "LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG")
        stack.type(
            printed("docs/kubernetes.md", "kubectl apply -k deploy/prod\nkubectl rollout status"), timeout=400
        )
        assert stack.log_level() == "DEBUG"
        stack.type(printed("docs/kubernetes.md", "kubectl rollout undo"))
        stack.rolled_out("deploy/web", "deploy/worker", "deploy/beat")
        assert stack.log_level() == "INFO"
        stack.greet("Ivo")

        stack.take_in("ingress")
        make_certificate(stack.folder)
        stack.type(printed("docs/kubernetes.md", "kubectl create secret tls esteira-tls"))
        (host,) = stack.get("ingress", "web")["spec"]["tls"]
        assert stack.get("secret", host["secretName"])["type"] == "kubernetes.io/tls"


@pytest.mark.usefixtures("loaded_images")
def test_prod_uses_servers_of_somebody_else(tmp_path: Path) -> None:
    with placed("prod", tmp_path) as stack, theirs(f"{stack.namespace}-theirs") as addresses:
        stack.take_in("external-postgres", "external-redis")
        stack.give(**addresses)
        stack.install()

        stack.greet("Ana")
        assert not stack.get("statefulsets")
        assert stack.secret("database_url") == addresses["database_url"]
        assert '"redis": "pass"' in stack.kubectl(
            "exec", "deploy/web", "--", "python", "-c", READY, "http://127.0.0.1:8000/readyz"
        )


@pytest.mark.usefixtures("loaded_images")
def test_dev_keeps_mail_to_itself(tmp_path: Path) -> None:
    with placed("dev", tmp_path) as stack:
        stack.apply("-k", str(stack.overlay))
        stack.available()
        assert len(stack.ready("web")) == len(stack.ready("beat")) == 1

        sent = stack.run(
            "manage", "jobs", "submit", "email.send", "to=ana@example.com", "subject=Hi", "text=Hi"
        )
        assert sent["state"] == "succeeded", sent


READY = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


@contextmanager
def theirs(namespace: str) -> Iterator[dict[str, str]]:
    """A PostgreSQL and a Redis in another namespace; gives their addresses as secrets.env takes them."""
    servers = KubernetesStack(namespace)
    kubectl = servers.kubectl
    kubectl("create", "namespace", namespace)
    try:
        for objects in (
            server(
                "postgres", "postgres:17-trixie", 5432, {"POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "jobs"}
            ),
            server("redis", "redis:8.2", 6379, {}, "redis-server", "--requirepass", PASSWORD),
        ):
            kubectl("apply", "-f", "-", stdin=json.dumps(objects))
        kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", timeout=70)
        yield {
            "database_url": f"postgresql://postgres:{PASSWORD}@postgres.{namespace}.svc:5432/jobs",
            "redis_url": f"redis://:{PASSWORD}@redis.{namespace}.svc:6379/0",
        }
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def server(name: str, image: str, port: int, env: Mapping[str, str], *command: str) -> dict[str, Any]:
    labels = {"server": name}
    pod = {
        "containers": [
            {
                "name": name,
                "image": image,
                "args": list(command),
                "env": [{"name": key, "value": value} for key, value in env.items()],
                "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            }
        ]
    }
    service = {"selector": labels, "ports": [{"port": port}]}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": pod},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
        ],
    }
