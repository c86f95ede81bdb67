"""An installation's secrets in Kubernetes: made while they are missing, whoever else makes them at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path

import pytest

from project.keys import SECRETS
from project.kubernetes import api as cluster_api
from project.kubernetes import keys as cluster_keys
from project.kubernetes.api import Api
from project.kubernetes.keys import FIRST_PAUSE_S, LONGEST_PAUSE_S, LOOK_S, Keys
from project.local.embedded import free_port
from tests.support.forks import ROOT
from tests.support.kubernetes_api import Answer, KubernetesApi, refusal
from tests.support.waiting import Stopwatch, until

NAMES = {one.name for one in SECRETS} | {
    "database_url",
    "database_owner_url",
    "redis_url",
    "flower_redis_url",
}


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cluster_keys, "RUN_DIR", tmp_path)
    return tmp_path


def is_ready(run_dir: Path) -> bool:
    return (run_dir / "keys.ready").exists()


def test_a_first_start_makes_every_key_in_one_patch(kubernetes: KubernetesApi) -> None:
    made = cluster_keys.fill(Api())

    assert set(made) == set(kubernetes.keys) == NAMES
    assert all(len(value) >= 16 for value in kubernetes.keys.values())
    assert kubernetes.patched() == ["secrets/esteira"]


def test_what_is_there_stays_and_only_what_is_missing_or_empty_is_made(kubernetes: KubernetesApi) -> None:
    kubernetes.set_keys(
        admin_password="given by hand", email_url="smtp://mail.example.com", redis_password=""
    )

    made = cluster_keys.fill(Api())

    assert set(made) == NAMES - {"admin_password"}
    assert kubernetes.keys["admin_password"] == "given by hand"
    assert kubernetes.keys["email_url"] == "smtp://mail.example.com"
    assert kubernetes.keys["redis_password"]


def test_a_second_start_changes_nothing(kubernetes: KubernetesApi) -> None:
    cluster_keys.fill(Api())
    before = kubernetes.keys

    made = cluster_keys.fill(Api())

    assert made == []
    assert kubernetes.keys == before
    assert len(kubernetes.patched()) == 1


def test_addresses_hold_the_passwords_quoted_and_names_that_other_namespaces_know(
    kubernetes: KubernetesApi,
) -> None:
    kubernetes.set_keys(
        postgres_password="p@ss:word/1", postgres_app_password="app:word/1", redis_password="r#d?s word"
    )

    cluster_keys.fill(Api())

    postgres, redis, at = "p%40ss%3Aword%2F1", "r%23d%3Fs%20word", "postgres.jobs.svc:5432/esteira"
    assert kubernetes.keys["database_url"] == f"postgresql://esteira_app:app%3Aword%2F1@{at}"
    assert kubernetes.keys["database_owner_url"] == f"postgresql://esteira:{postgres}@{at}"
    assert kubernetes.keys["redis_url"] == f"redis://esteira:{redis}@redis:6379/0"


def test_servers_of_somebody_else_keep_their_addresses(kubernetes: KubernetesApi) -> None:
    theirs = "postgresql://me:secret@db.example.com/jobs?sslmode=require"
    kubernetes.set_keys(database_url=theirs)

    cluster_keys.fill(Api())

    assert kubernetes.keys["database_url"] == theirs
    assert "database_owner_url" not in kubernetes.keys, "one role does it all, unless two are given"


def test_whoever_was_faster_wins_and_that_is_no_trouble(
    kubernetes: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    def somebody_was_faster(method: str, path: str) -> Answer | None:
        if method == "PATCH" and len(kubernetes.patched()) == 1:
            kubernetes.set_keys(admin_password="made by another")
            kubernetes.secret["metadata"]["resourceVersion"] = "2"  # type: ignore[index]
        return None

    kubernetes.instead = somebody_was_faster
    keys = Keys(Api())

    assert [keys.look(), keys.look()] == [FIRST_PAUSE_S, LOOK_S]
    assert kubernetes.asked == ["GET secrets/esteira", "PATCH secrets/esteira"] * 2
    assert kubernetes.keys["admin_password"] == "made by another"
    said = capsys.readouterr()
    assert said.out == f"made {', '.join(sorted(NAMES - {'admin_password'}))}\n"
    assert said.err == ""


def test_two_at_once_make_one_set(kubernetes: KubernetesApi) -> None:
    both_have_read = threading.Barrier(2)

    def wait_for_the_other(method: str, path: str) -> Answer | None:
        if method == "PATCH" and kubernetes.asked.count("GET secrets/esteira") == 2:
            both_have_read.wait(10)
        return None

    kubernetes.instead = wait_for_the_other
    rests: list[float] = []
    pods = [threading.Thread(target=lambda: rests.append(Keys(Api()).look())) for _ in range(2)]

    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join(20)

    assert sorted(rests) == [FIRST_PAUSE_S, LOOK_S]
    assert set(kubernetes.keys) == NAMES
    assert kubernetes.keys["postgres_app_password"] in kubernetes.keys["database_url"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, 'secrets "esteira" not found'),
        (403, 'secrets "esteira" is forbidden: no get for you'),
        (401, "Unauthorized"),
        (500, "etcdserver: request timed out"),
    ],
)
def test_what_is_refused_is_told_once_and_asked_for_ever_more_rarely(
    kubernetes: KubernetesApi, run_dir: Path, capsys: pytest.CaptureFixture[str], code: int, message: str
) -> None:
    kubernetes.instead = lambda method, path: refusal(code, message)
    keys = Keys(Api())

    rests = [keys.look() for _ in range(7)]

    assert rests == [1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert len(kubernetes.asked) == 7
    assert capsys.readouterr().err == f"Kubernetes answered GET secrets/esteira with {code}: {message}\n"
    assert not is_ready(run_dir)

    kubernetes.instead = lambda method, path: None

    assert keys.look() == LOOK_S
    assert set(kubernetes.keys) == NAMES
    assert is_ready(run_dir)
    kubernetes.instead = lambda method, path: refusal(code, message)
    assert keys.look() == FIRST_PAUSE_S, "trouble of its own begins anew"
    assert not is_ready(run_dir)


def test_no_answer_at_all_is_told_and_tried_again(
    kubernetes: KubernetesApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))

    assert Keys(Api()).look() == FIRST_PAUSE_S
    assert "Kubernetes did not answer GET secrets/esteira: " in capsys.readouterr().err


def test_an_answer_that_is_no_json_is_tried_again(kubernetes: KubernetesApi) -> None:
    kubernetes.instead = lambda method, path: (200, b"<html>a proxy") if len(kubernetes.asked) == 1 else None
    keys = Keys(Api())

    assert [keys.look(), keys.look()] == [FIRST_PAUSE_S, LOOK_S]
    assert set(kubernetes.keys) == NAMES


def test_a_full_secret_is_looked_at_in_silence(
    kubernetes: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_keys.fill(Api())
    keys = Keys(Api())

    assert [keys.look() for _ in range(3)] == [LOOK_S] * 3
    assert kubernetes.asked[2:] == ["GET secrets/esteira"] * 3
    assert capsys.readouterr().out == "all keys exist\n"


def test_a_key_that_is_taken_away_is_made_again_by_itself(
    kubernetes: KubernetesApi, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = Keys(Api())
    keys.look()
    before = kubernetes.keys
    kubernetes.set_keys(
        **{name: value for name, value in before.items() if name not in ("redis_password", "redis_url")}
    )
    capsys.readouterr()

    keys.look()

    changed = {name for name, value in kubernetes.keys.items() if before[name] != value}
    assert changed == {"redis_password", "redis_url"}
    assert kubernetes.keys["redis_password"] in kubernetes.keys["redis_url"]
    assert capsys.readouterr().out == "made redis_password, redis_url\n"


def test_a_value_that_is_no_text_is_left_alone(kubernetes: KubernetesApi) -> None:
    kubernetes.secret["data"] = {"tls": b64encode(b"\xff\xfe").decode()}  # type: ignore[index]

    assert set(cluster_keys.fill(Api())) == NAMES


def test_the_pod_fills_becomes_ready_and_ends_at_once_when_it_is_told_to(
    kubernetes: KubernetesApi, run_dir: Path
) -> None:
    """As the process of the container; that it is the first one there, only a cluster shows."""
    (run_dir / "keys.ready").touch()
    program = (
        "from pathlib import Path; from project.kubernetes import api, keys;"
        f"api.ACCOUNT = Path({str(kubernetes.account)!r}); keys.main()"
    )
    gate = threading.Event()

    def wait_at_the_gate(method: str, path: str) -> None:
        gate.wait(20)

    kubernetes.instead = wait_at_the_gate
    env = {**os.environ, **kubernetes.env, "RUN_DIR": str(run_dir)}
    pod = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: kubernetes.asked, "it asks")
        assert not is_ready(run_dir), "the file of a container before this one"
        gate.set()
        until(lambda: is_ready(run_dir), "it is ready")
        healthy = subprocess.run(
            ["sh", str(ROOT / "services" / "web" / "keys-healthy")], env=env, check=False
        )
        watch = Stopwatch()
        pod.terminate()

        assert pod.wait(10) == 0
        assert watch.seconds < 2
        assert healthy.returncode == 0
        assert set(kubernetes.keys) == NAMES
    finally:
        pod.kill()
        pod.wait()


def test_a_token_that_was_replaced_is_read_again(kubernetes: KubernetesApi) -> None:
    api = Api()
    cluster_keys.fill(api)

    kubernetes.rotate_token("second-token")

    assert cluster_keys.fill(api) == []


def test_a_server_that_the_account_s_authority_did_not_sign_gets_no_token(kubernetes: KubernetesApi) -> None:
    kubernetes.trust_another()

    with pytest.raises(cluster_api.NotAnswered, match="CERTIFICATE_VERIFY_FAILED"):
        Api().get("secrets/esteira")

    assert not kubernetes.asked


def test_outside_of_a_pod_it_says_what_the_manifest_needs(
    kubernetes: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kubernetes.account / "namespace").unlink()

    with pytest.raises(SystemExit, match="automountServiceAccountToken: true"):
        cluster_keys.main()
