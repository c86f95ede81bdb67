"""`kubectl` for tests, in one namespace of the cluster that TEST_KUBECONFIG names.

Never of the one that somebody happens to be signed in to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.forks import ROOT
from tests.support.waiting import until

CLUSTER = "a Kubernetes cluster that tests may break"
HOW_TO_GET_ONE = "name its kubeconfig in TEST_KUBECONFIG and a command that loads images in TEST_CLUSTER_LOAD"


def cluster_answers() -> bool:
    """Whether TEST_KUBECONFIG names a cluster, and it answers."""
    if not Path(os.environ.get("TEST_KUBECONFIG", "")).is_file():
        return False
    try:
        asked = kubectl("get", "nodes", "--request-timeout=10s")
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def is_coming() -> bool:
    """Whether somebody is bringing up the cluster, and writes TEST_KUBECONFIG when it is there."""
    return bool(os.environ.get("TEST_CLUSTER_WITHIN"))


def wait_for_it() -> None:
    """Wait for the cluster as many seconds as TEST_CLUSTER_WITHIN allows."""
    until(cluster_answers, CLUSTER, timeout=float(os.environ.get("TEST_CLUSTER_WITHIN") or 10), every=1)


def load(*images: str) -> None:
    """Make images of the local engine known to the cluster."""
    command = os.environ["TEST_CLUSTER_LOAD"].split()
    subprocess.run([*command, *images], check=True, timeout=600, capture_output=True)


def environment() -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": os.environ["TEST_KUBECONFIG"]}


def kubectl(
    *arguments: str, stdin: str | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Namespace:
    """What is in it, and changes of it."""

    folder = ROOT  # where lines are typed

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.warnings = ""

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run `kubectl …` in the namespace; return what it printed on stdout, keep its warnings."""
        done = self.tried(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-3000:]}"
        self.warnings += done.stderr
        return done.stdout

    def tried(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `kubectl …` in the namespace, however it ends."""
        return kubectl("--namespace", self.namespace, *arguments, stdin=stdin, timeout=timeout)

    def type(self, lines: str, folder: Path | None = None, *, timeout: float = 300) -> str:
        """Run lines of a document as a reader does who chose this namespace for his kubectl; return what they printed."""
        with self.chosen() as env:
            done = subprocess.run(
                ["sh", "-euc", lines],
                env=env,
                cwd=folder or self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        assert done.returncode == 0, f"{lines}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        self.warnings += done.stderr
        return done.stdout

    @contextmanager
    def chosen(self) -> Iterator[dict[str, str]]:
        """An environment in which kubectl is in this namespace."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config"
            shutil.copyfile(os.environ["TEST_KUBECONFIG"], config)
            env = {**os.environ, "KUBECONFIG": str(config)}
            choose = ["kubectl", "config", "set-context", "--current", f"--namespace={self.namespace}"]
            subprocess.run(choose, env=env, check=True, capture_output=True, timeout=30)
            yield env

    def get(self, kind: str, name: str = "", **labels: str) -> Any:
        """Return an object, or the list of those with some labels."""
        chosen = (
            [f"--selector={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else []
        )
        told = json.loads(self.kubectl("get", kind, *([name] if name else []), *chosen, "-o", "json"))
        return told if name else told["items"]

    def patch(self, kind: str, name: str, body: dict[str, Any], how: str = "strategic") -> None:
        self.kubectl("patch", kind, name, f"--type={how}", "-p", json.dumps(body))

    @contextmanager
    def pod(self, name: str, **labels: str) -> Iterator[str]:
        """A pod in the same namespace that is none of ours, and does nothing by itself."""
        container = {
            "name": name,
            "image": "esteira-web:latest",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "3600"],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        spec = {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        }
        metadata = {"name": name, "labels": labels}
        self.kubectl(
            "apply",
            "-f",
            "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        )
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout=70)
        try:
            yield f"pod/{name}"
        finally:
            self.kubectl("delete", "pod", name, "--grace-period=1")
