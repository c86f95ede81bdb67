"""Which worker goes first when somebody scales in: the idle one, then the one whose work is youngest."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from esteira.db import PrivateConnection
from esteira.record.rescue import drained
from esteira.worker import identity
from project.kubernetes import api, scale_in
from project.kubernetes.api import Api
from project.kubernetes.scale_in import HIGHEST, Load, ScaleIn, cost, loads
from project.local.embedded import free_port
from tests.support.forks import ROOT, environment
from tests.support.jobs import TYPE, elapse, running
from tests.support.kubernetes_api import COST, Answer, KubernetesApi, refusal
from tests.support.waiting import until

HOUR = 3600.0


@pytest.fixture
def scaling(kubernetes: KubernetesApi, core: PrivateConnection) -> Iterator[ScaleIn]:
    """The controller between a Kubernetes with three idle workers and an empty database."""
    for name in ("a", "b", "c"):
        kubernetes.add_pod(f"worker-{name}")
    db = PrivateConnection("scale-in", timeout_s=3)
    yield ScaleIn(Api(), db)
    db.close()


def runs(core: PrivateConnection, pod: str, n: int = 1, *, for_s: float = 0) -> None:
    """Let a pod run n jobs, each in a process of its own."""
    for process in range(n):
        (job,) = running(core, worker=f"celery@worker-{pod}/boot-1-1", delivery=f"{pod}{for_s:g}-{process}")
        elapse(core, job.id, "claimed_at", for_s)


def costs(kubernetes: KubernetesApi) -> dict[str, int | None]:
    found = kubernetes.costs().items()
    return {name.removeprefix("worker-"): None if value is None else int(value) for name, value in found}


def order(kubernetes: KubernetesApi) -> list[str]:
    """Return the pods as they would be taken: cheapest first."""
    return sorted(found := costs(kubernetes), key=lambda name: found[name] or 0)


# --- The formula -----------------------------------------------------------------------------------------------------------


def test_more_jobs_always_cost_more_however_young_they_are() -> None:
    year = 365 * 24 * HOUR

    assert cost(Load(jobs=1, oldest_s=0)) > scale_in.RESTING > scale_in.IDLE
    assert cost(Load(jobs=2, oldest_s=0)) > cost(Load(jobs=1, oldest_s=100 * year))


@pytest.mark.parametrize("age_s", [0, 1, 2, 5, 10, 30, 60, 600, HOUR, 24 * HOUR])
def test_with_equal_numbers_age_decides(age_s: float) -> None:
    assert cost(Load(jobs=1, oldest_s=1.1 * age_s + 1)) > cost(Load(jobs=1, oldest_s=age_s))


def test_an_hour_of_one_job_is_few_patches() -> None:
    assert len({cost(Load(jobs=1, oldest_s=second)) for second in range(3600)}) < 180


@pytest.mark.parametrize("load", [Load(jobs=10**9, oldest_s=1e12), Load(jobs=1, oldest_s=-5)])
def test_whatever_is_read_it_is_a_number_that_kubernetes_takes(load: Load) -> None:
    assert 0 < cost(load) <= HIGHEST == 2**31 - 1


# --- What it does ----------------------------------------------------------------------------------------------------------


def test_idle_workers_cost_nothing_and_busy_ones_more_the_more_they_run(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection
) -> None:
    runs(core, "a", 2)
    runs(core, "c", 1)

    scaling.turn()

    assert costs(kubernetes)["b"] == 0
    assert order(kubernetes) == ["b", "c", "a"]


def test_with_equal_numbers_young_work_goes_first(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection
) -> None:
    runs(core, "a", for_s=60)
    runs(core, "b", for_s=5)
    runs(core, "c", for_s=600)

    scaling.turn()

    assert order(kubernetes) == ["b", "a", "c"]


def test_a_batch_counts_as_one_job_and_no_more_than_a_long_one(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection
) -> None:
    runs(core, "a", for_s=HOUR)
    running(core, 50, worker="celery@worker-b/boot-1-1", delivery="one message")

    scaling.turn()

    assert order(kubernetes) == ["c", "b", "a"]


def test_a_worker_that_idles_for_long_goes_before_one_between_two_short_jobs(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_in, "IDLE_S", 1.0)
    runs(core, "a")
    scaling.turn()
    drained(core, me="celery@worker-a/boot-1-1")

    scaling.turn()
    between_two = costs(kubernetes)

    assert between_two == {"a": 1, "b": 0, "c": 0}
    until(lambda: scaling.turn() or costs(kubernetes)["a"] == 0, "it has idled for long")


def test_a_new_process_goes_on_where_the_last_one_ended(scaling: ScaleIn, kubernetes: KubernetesApi) -> None:
    """It cannot know since when a worker that was busy idles, so it counts from its own start."""
    kubernetes.add_pod("worker-a", annotations={COST: "1042"})
    kubernetes.add_pod("worker-b", annotations={COST: "0"})

    scaling.turn()

    assert costs(kubernetes) == {"a": 1, "b": 0, "c": 0}


def test_pods_are_patched_when_their_cost_changes_and_only_then(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection
) -> None:
    runs(core, "a", for_s=HOUR)
    scaling.turn()
    first = kubernetes.patched()

    scaling.turn()

    assert sorted(first) == ["pods/worker-a", "pods/worker-b", "pods/worker-c"]
    assert kubernetes.patched() == first


def test_other_annotations_stay(scaling: ScaleIn, kubernetes: KubernetesApi) -> None:
    kubernetes.add_pod("worker-a", annotations={"somebody/else": "says"})

    scaling.turn()

    assert kubernetes.pods["worker-a"]["metadata"]["annotations"] == {"somebody/else": "says", COST: "0"}


def test_only_workers_that_stay_are_touched(scaling: ScaleIn, kubernetes: KubernetesApi) -> None:
    kubernetes.add_pod(
        "web-a", labels={"app.kubernetes.io/name": "web", "app.kubernetes.io/part-of": "esteira"}
    )
    kubernetes.add_pod(
        "other", labels={"app.kubernetes.io/name": "worker", "app.kubernetes.io/part-of": "else"}
    )
    kubernetes.add_pod("worker-c", deletionTimestamp="2026-11-25T10:00:00Z")

    scaling.turn()

    assert sorted(kubernetes.patched()) == ["pods/worker-a", "pods/worker-b"]


def test_no_worker_at_all_is_no_trouble(
    scaling: ScaleIn, kubernetes: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    kubernetes.pods.clear()

    scaling.turn()

    assert kubernetes.asked == ["GET pods"]
    assert not told(caplog)


def test_a_second_name_on_the_same_pod_is_the_pod_s(
    scaling: ScaleIn, kubernetes: KubernetesApi, core: PrivateConnection
) -> None:
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES ('celery@worker-a', %s, 'worker-a', 1, '[]', '[]', 2, 'up', clock_timestamp(), clock_timestamp())""",
        [identity.incarnation(os.getppid())],
    )
    me = identity.take_name(core, "celery@worker-a", queues=["default"], slots=2)
    running(core, worker=me.full)

    scaling.turn()

    assert me.name == "celery@worker-a-2"
    assert order(kubernetes)[-1] == "a"


def test_a_backlog_costs_the_question_nothing(core: PrivateConnection) -> None:
    core.fetch(
        """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s)
           SELECT gen_random_uuid(), %s, '{}', 'default', 6, 4, 2, 10, 600 FROM generate_series(1, 20000)""",
        [TYPE],
    )
    runs(core, "a", 2)
    asked = Asked(core)

    loads(asked)

    assert asked.blocks < 100


class Asked:
    """A `Db` that counts the blocks that a statement reads."""

    def __init__(self, core: PrivateConnection) -> None:
        self.core, self.blocks, self.transaction = core, 0, core.transaction

    def fetch(self, sql: str, params: object = ()) -> list:
        rows = self.core.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
        plan = rows[0][0][0]["Plan"]
        self.blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return []


# --- Trouble ---------------------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "project.kubernetes.scale_in"]


def test_without_the_database_costs_stay_as_they_are_and_that_is_told_once(
    scaling: ScaleIn,
    kubernetes: KubernetesApi,
    core: PrivateConnection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    runs(core, "a", for_s=HOUR)
    scaling.turn()
    before, asked = costs(kubernetes), len(kubernetes.asked)
    scaling._db.close()

    with monkeypatch.context() as away:
        away.setitem(connection.settings_dict, "PORT", free_port())
        scaling.turn()
        scaling.turn()
        while_away = costs(kubernetes)
    scaling.turn()

    assert while_away == before
    assert len(kubernetes.asked) == asked + 1, "asked again once the database was back"
    away_, back = told(caplog)
    assert "does not answer" in away_
    assert away_.endswith("The deletion costs are not updated until it answers.")
    assert back == "PostgreSQL and Kubernetes answer again"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (refusal(403, "pods is forbidden"), "Kubernetes answered GET pods with 403: pods is forbidden"),
        (refusal(500, "etcd has no leader"), "Kubernetes answered GET pods with 500: etcd has no leader"),
        ((200, b"<html>"), "Kubernetes answered GET pods with something other than JSON"),
        ((200, {"kind": "PodList"}), "a turn failed with an unexpected error: KeyError('items')"),
    ],
)
def test_what_kubernetes_refuses_is_told_once_and_tried_again(
    scaling: ScaleIn, kubernetes: KubernetesApi, caplog: pytest.LogCaptureFixture, said: Answer, sentence: str
) -> None:
    kubernetes.instead = lambda method, path: said
    scaling.turn()
    scaling.turn()
    kubernetes.instead = lambda method, path: None

    scaling.turn()

    (once,) = told(caplog)
    assert once.startswith(sentence)
    assert ("Traceback" in caplog.text) == ("unexpected" in sentence)
    assert costs(kubernetes) == {"a": 0, "b": 0, "c": 0}


def test_a_kubernetes_that_is_away_is_told_once_and_asked_again(
    scaling: ScaleIn,
    kubernetes: KubernetesApi,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))
    away = ScaleIn(Api(), scaling._db)

    away.turn()
    away.turn()

    (sentence,) = told(caplog)
    assert sentence.startswith("Kubernetes did not answer GET pods: ")
    assert "refused" in sentence


def test_a_pod_that_cannot_be_patched_does_not_keep_the_others_from_it(
    scaling: ScaleIn, kubernetes: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    kubernetes.instead = lambda method, path: refusal(403, "no") if path == "pods/worker-a" else None

    scaling.turn()

    assert costs(kubernetes) == {"a": None, "b": 0, "c": 0}
    assert told(caplog) == ["Kubernetes answered PATCH pods/worker-a with 403: no"]


def test_a_pod_that_ended_since_it_was_listed_is_no_trouble(
    scaling: ScaleIn, kubernetes: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    kubernetes.instead = lambda method, path: refusal(404, "gone") if path == "pods/worker-a" else None

    scaling.turn()

    assert costs(kubernetes) == {"a": None, "b": 0, "c": 0}
    assert not told(caplog)


def test_each_turn_shows_that_the_loop_lives_whatever_is_away(
    scaling: ScaleIn, kubernetes: KubernetesApi
) -> None:
    sign = Path(settings.ESTEIRA_RUN_DIR) / "scale-in.alive"
    sign.unlink(missing_ok=True)
    kubernetes.instead = lambda method, path: refusal(500, "no")

    scaling.turn()

    assert sign.exists()


# --- The process -----------------------------------------------------------------------------------------------------------

PROCESS = """
import sys
from pathlib import Path
from project.kubernetes import api, scale_in
api.ACCOUNT = Path(sys.argv[1])
scale_in.main()
"""


@pytest.fixture
def process(
    kubernetes: KubernetesApi, core: PrivateConnection, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    kubernetes.add_pod("worker-a")
    with (tmp_path / "scale-in.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(kubernetes.account)],
            cwd=ROOT,
            env=environment(RUN_DIR=str(tmp_path / "run"), **kubernetes.env),
            stderr=log,
        )
    yield process
    process.kill()
    process.wait()


def healthy(tmp_path: Path) -> bool:
    check = ["sh", str(ROOT / "services/beat/scale-in-healthy")]
    env = {"PATH": os.environ["PATH"], "RUN_DIR": str(tmp_path / "run")}
    return subprocess.run(check, env=env, capture_output=True, check=False).returncode == 0


def test_the_process_keeps_up_with_what_runs_and_is_healthy(
    process: subprocess.Popen[bytes], kubernetes: KubernetesApi, core: PrivateConnection, tmp_path: Path
) -> None:
    assert not healthy(tmp_path)
    until(lambda: costs(kubernetes)["a"] == 0, "the idle worker has its cost")

    runs(core, "a")

    until(lambda: (costs(kubernetes)["a"] or 0) >= scale_in.A_JOB, "the busy worker has its cost")
    assert healthy(tmp_path)


def test_sigterm_ends_the_process_at_once_even_while_kubernetes_is_silent(
    process: subprocess.Popen[bytes], kubernetes: KubernetesApi
) -> None:
    asked, end = threading.Event(), threading.Event()

    def be_silent(method: str, path: str) -> Answer | None:
        asked.set()
        end.wait(30)
        return None

    kubernetes.instead = be_silent
    assert asked.wait(30)

    process.send_signal(signal.SIGTERM)

    assert process.wait(api.TIMEOUT_S - 1) == 0, "before the request would have ended"
    end.set()
