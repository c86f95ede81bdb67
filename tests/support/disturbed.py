"""An installation in Kubernetes to break: pods deleted, evicted, rolled and scaled, and when work goes on after it."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import redis as redis_client

from tests.support.broken import EMPTIED, Broken
from tests.support.cluster import Cluster
from tests.support.waiting import Stopwatch, until

WORKERS = 2


class Disturbed(Broken, Cluster):
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
    def visitors(self, many: int = 4) -> Iterator[list[str]]:
        """Ask the Service for a page again and again, a new connection each time; gives what went wrong."""
        wrong: list[str] = []
        enough = threading.Event()
        asked = [0] * many
        watch = Stopwatch()

        def visit(number: int) -> None:
            while not enough.is_set():
                began = watch.seconds
                try:
                    with urllib.request.urlopen(f"{self.web_url}/login/", timeout=10) as answer:
                        answer.read()
                except OSError as error:
                    wrong.append(f"{began:.2f} to {watch.seconds:.2f} s: {error!r}")
                asked[number] += 1

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(many)]
        for thread in threads:
            thread.start()
        try:
            yield wrong
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert all(asked), "a visitor asked nothing"
