"""Make Kubernetes scale in idle workers first, by keeping the deletion cost of each worker's pod up to date.

The number of replicas is lowered by a person, an HPA or KEDA, but the ReplicaSet chooses the pods to delete: those with
the lowest annotation `controller.kubernetes.io/pod-deletion-cost`. Every second this process reads the running jobs of
each worker from PostgreSQL, and patches the pods whose cost changed. It decides nothing else and stores nothing: while
it is down, costs are old and scaling in may delete a busy worker, which drains as usual. Two of them are harmless.

    0                  idle for at least ten seconds, or never busy
    1                  idle for less than that: between two short jobs
    1000 × jobs + age  busy; with equal numbers the longest running job decides, so that new work is moved first
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import quote

import django
from django.conf import settings

from esteira import liveness, migration_lock
from esteira.db import ConnectionLost, Db, PrivateConnection
from project import logging as project_logging
from project.kubernetes.api import Api, NotAnswered

log = logging.getLogger("project.kubernetes.scale_in")

NAME = "scale-in"
ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
WORKERS = "app.kubernetes.io/name=worker,app.kubernetes.io/part-of=esteira"
#: Names and annotations are enough; whole pods would be fifty times the data every second.
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
TURN_S, DATABASE_TIMEOUT_S = 1.0, 3.0
IDLE_S = 10.0
IDLE, RESTING, A_JOB = 0, 1, 1000
#: Ages grow in steps of 5 %: exact for young jobs, and an hour of one job makes about 150 patches, not 3600.
STEP = 1.05
#: Kubernetes parses the cost as an int32.
HIGHEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The load of one pod: the number of running jobs, and how long the oldest of them has been running."""

    jobs: int
    oldest_s: float


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    django.setup()
    project_logging.configure(settings.LOG_LEVEL, settings.LOG_FORMAT)
    liveness.touch(NAME)
    migration_lock.wait_until_migrated(turn=lambda: liveness.touch(NAME))
    try:
        scale_in = ScaleIn(Api(), PrivateConnection(NAME, timeout_s=DATABASE_TIMEOUT_S))
    except NotAnswered as error:
        sys.exit(str(error))
    while True:
        began = time.monotonic()
        scale_in.turn()
        time.sleep(max(0.0, TURN_S - (time.monotonic() - began)))


def _end(*_: object) -> NoReturn:
    """Exit at SIGTERM: without a handler, the first process of a container ignores it."""
    sys.exit(0)


class ScaleIn:
    """Updates the costs repeatedly; remembers when each pod was last busy, and the last error that was logged."""

    def __init__(self, api: Api, db: PrivateConnection) -> None:
        self._api, self._db = api, db
        self._busy_at: dict[str, float] = {}
        self._logged = ""

    def turn(self) -> None:
        """Update the costs; an error is logged once, and the next turn tries again."""
        trouble, unexpected = "", None
        liveness.touch(NAME)
        try:
            self._settle(loads(self._db))
        except ConnectionLost as error:
            self._db.close()
            trouble = f"{migration_lock.away(error)} The deletion costs are not updated until it answers."
        except NotAnswered as error:
            trouble = str(error)
        except Exception as error:  # no answer of an API may end this process; the next turn is in a second
            trouble, unexpected = f"a turn failed with an unexpected error: {error!r}", error
        self._log_once(trouble, unexpected)

    def _settle(self, busy: Mapping[str, Load]) -> None:
        liveness.touch(NAME)
        failed: NotAnswered | None = None
        for pod in self._pods():
            wanted = str(self._cost(pod, busy.get(pod["name"])))
            if _annotation(pod) == wanted:
                continue
            liveness.touch(NAME)
            try:
                self._api.patch(f"pods/{pod['name']}", {"metadata": {"annotations": {ANNOTATION: wanted}}})
            except NotAnswered as error:
                if error.status == HTTPStatus.NOT_FOUND:  # the pod has ended since it was listed
                    continue
                failed = error
                if not error.status:  # no answer: the other pods would wait for the same timeout
                    break
        if failed:
            raise failed

    def _pods(self) -> list[dict[str, Any]]:
        """Return name and annotations of the pods, without those that already end."""
        items = self._api.get(f"pods?labelSelector={quote(WORKERS)}", accept=METADATA)["items"]
        # Kubernetes sends an empty list as null, because it is written in Go.
        pods = [item["metadata"] for item in items or () if not item["metadata"].get("deletionTimestamp")]
        names = {pod["name"] for pod in pods}
        self._busy_at = {name: at for name, at in self._busy_at.items() if name in names}
        return pods

    def _cost(self, pod: Mapping[str, Any], load: Load | None) -> int:
        name, now = pod["name"], time.monotonic()
        if load:
            self._busy_at[name] = now
            return cost(load)
        if name not in self._busy_at:
            # A new pod was never busy. One with a cost was busy before this process began: it is idle from now on.
            self._busy_at[name] = float("-inf") if _annotation(pod) in (None, str(IDLE)) else now
        return RESTING if now - self._busy_at[name] < IDLE_S else IDLE

    def _log_once(self, trouble: str, unexpected: Exception | None) -> None:
        if trouble == self._logged:
            return
        if trouble:
            log.warning(trouble, exc_info=unexpected)
        else:
            log.info("PostgreSQL and Kubernetes answer again")
        self._logged = trouble


def loads(db: Db) -> dict[str, Load]:
    """Return the load of each pod that runs jobs.

    A batch counts as one job: its jobs run one after the other in one process, and all of them are short.
    """
    rows = db.fetch(
        """SELECT coalesce(w.host, split_part(split_part(j.worker, '/', 1), '@', 2)),
             count(DISTINCT coalesce(j.delivery, j.id::text)),
             extract(epoch FROM clock_timestamp() - min(coalesce(j.started_at, j.claimed_at)))::float8
           FROM esteira_job j LEFT JOIN esteira_worker w ON w.name = split_part(j.worker, '/', 1)
           WHERE j.state = 'running' GROUP BY 1"""
    )
    return {pod: Load(jobs=jobs, oldest_s=oldest_s) for pod, jobs, oldest_s in rows}


def cost(load: Load) -> int:
    """Return the cost of ending a busy pod."""
    age = min(int(math.log1p(max(0.0, load.oldest_s)) / math.log(STEP)), A_JOB - 1)
    return min(load.jobs * A_JOB + age, HIGHEST)


def _annotation(pod: Mapping[str, Any]) -> str | None:
    return (pod.get("annotations") or {}).get(ANNOTATION)


if __name__ == "__main__":
    main()
