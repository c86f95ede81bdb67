"""An installation in Kubernetes to break: pods deleted, evicted, rolled and scaled, and when work goes on after it."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import redis as redis_client

from tests.support.cluster import Cluster
from tests.support.waiting import Stopwatch, until

#: Jobs that are under way when something breaks.
LOAD = int(os.environ.get("JOBS", "160"))
#: Beside a lease, from the moment when a part is back, or another can take over.
GRACE_S = 2.0
WORKERS = 2
#: Emptied between two tests, with what refers to them; accounts, workers and schedules stay.
EMPTIED = "esteira_job, esteira_stat, esteira_file, esteira_idempotencykey, effect"


class Disturbed(Cluster):
    """Two workers of two processes, and what the manifests say of everything else."""

    @property
    def lease_s(self) -> float:
        return float(self.settings["LEASE_SECONDS"])

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

    def catch(self, ids: list[str], *workers: str, seconds: float = 2) -> dict[UUID, int]:
        """Wait until a fifth is done, a fifth is not, and each worker holds jobs that are not about to end.

        Return the attempts of those; they become part of `ids`.
        """
        self.halfway(ids, *workers)
        long = self.submit("effects.deaf", [{"seconds": seconds}] * 6, priority="high")
        ids += long

        def held() -> list[list[UUID]]:
            each = [[one for one in self.held(worker) if str(one) in long] for worker in workers]
            return each if all(each) else []

        caught = until(held, f"{workers} hold long jobs", every=0.01)
        return self.db.attempts([one for each in caught for one in each])

    def held(self, worker: str) -> list[UUID]:
        return self.db.held_by(self.names_of(worker))

    def flows_again(self, *, timeout: float = 120) -> float:
        """Wait until a job that was claimed from now on has ended; return after how many seconds."""
        watch, now = Stopwatch(), self.db.one("SELECT clock_timestamp()")
        new = "SELECT EXISTS (SELECT 1 FROM esteira_job WHERE claimed_at > %s AND finished_at IS NOT NULL)"
        until(lambda: self.db.one(new, [now]), "jobs are claimed and end", timeout=timeout, every=0.02)
        return watch.seconds

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

        def visit(number: int) -> None:
            while not enough.is_set():
                try:
                    with urllib.request.urlopen(f"{self.web_url}/login/", timeout=10) as answer:
                        answer.read()
                except OSError as error:
                    wrong.append(f"{time.monotonic():.1f}: {error!r}")
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
