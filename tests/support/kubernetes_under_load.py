"""An installation in Kubernetes to break: pods deleted, evicted, rolled and scaled, and when work goes on after it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import redis as redis_client

from tests.support.kubectl import environment
from tests.support.kubernetes_stack import KubernetesStack
from tests.support.under_load import EMPTIED, UnderLoad
from tests.support.waiting import until

WORKERS = 2
#: Four threads, until nobody has anything to say any more; how often they asked, and each failure on a line.
VISIT = """
import sys, threading, time, urllib.request
page = urllib.request.Request(f"http://{sys.argv[1]}:8000/login/", headers={"Host": "localhost"})
began, over, asked, wrong = time.monotonic(), threading.Event(), [], []
def visit():
    while not over.is_set():
        at = time.monotonic()
        try:
            with urllib.request.urlopen(page, timeout=10) as answer:
                answer.read()
        except OSError as error:
            wrong.append(f"{at - began:.2f} to {time.monotonic() - began:.2f} s: {error!r}")
        asked.append(at)
threads = [threading.Thread(target=visit) for _ in range(4)]
for thread in threads: thread.start()
sys.stdin.read()
over.set()
for thread in threads: thread.join()
print(len(asked), *wrong, sep="\\n")
"""


class KubernetesStackUnderLoad(UnderLoad, KubernetesStack):
    """Two workers of two processes, and what the manifests say of everything else."""

    def start(self) -> None:
        self.create()
        self.apply()
        self.available()
        self.configure()
        self.scale("worker", WORKERS)

    def renew(self) -> None:
        """Mend whatever a test has left broken, and empty both servers."""
        self.scale("worker", WORKERS)
        for name, many in (("web", 2), ("beat", 2), ("flower", 1), ("redis", 1), ("postgres", 1)):
            until(lambda: len(self.ready(name)) == many, f"{many} × {name}", timeout=180)  # noqa: B023
        self.db.fetch("SET lock_timeout = '20s'")
        self.db.fetch(f"TRUNCATE {EMPTIED} RESTART IDENTITY CASCADE")
        with redis_client.Redis.from_url(self.redis_url("admin"), socket_timeout=5) as admin:
            admin.flushall()

    def evict(self, pod: str) -> bool:
        """Ask for a pod's eviction, as a drain does; return whether the disruption budget allowed it."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        done = self.tried(
            "create",
            "--raw",
            f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction",
            "-f",
            "-",
            stdin=json.dumps(body),
        )
        assert done.returncode == 0 or "disruption budget" in done.stderr, done.stderr
        return done.returncode == 0

    def cut_off(self, ids: list[str]) -> list[tuple[str, int]]:
        """Return the jobs among these that did not end in their first attempt."""
        return self.db.fetch(
            "SELECT type, attempt FROM esteira_job WHERE id = ANY(%s::uuid[]) AND attempt > 1", [ids]
        )  # type: ignore[return-value]

    @contextmanager
    def visitors(self) -> Iterator[list[str]]:
        """Ask the Service for a page again and again, a new connection each time; afterwards has what went wrong.

        They come from a pod: the way from a node's port into it is not ours.
        """
        wrong: list[str] = []
        address = self.get("service", "web")["spec"]["clusterIP"]
        with self.pod("visitor") as pod:
            visit = ["kubectl", "-n", self.namespace, "exec", "-i", pod, "--", "python", "-c", VISIT, address]
            visiting = subprocess.Popen(
                visit, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            try:
                yield wrong
            finally:
                told, _ = visiting.communicate(timeout=60)  # which ends what they read, and that ends them
            asked, *refused = told.splitlines()
            assert visiting.returncode == 0 and int(asked) > 0, told
            wrong += refused
