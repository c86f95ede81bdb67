"""An installation's secrets in Kubernetes: made once, whoever else makes them at the same moment."""

from __future__ import annotations

import threading

import pytest

from project import cluster_api, cluster_keys
from project.cluster_api import Api
from project.embedded import free_port
from project.keys import SECRETS
from tests.support.kubernetes import Answer, Kubernetes, refusal

NAMES = {one.name for one in SECRETS} | {"database_url", "redis_url"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_keys, "PAUSE_S", 0.01)


def test_a_first_start_makes_every_key_in_one_patch(kubernetes: Kubernetes) -> None:
    made = cluster_keys.fill(Api())

    assert set(made) == set(kubernetes.keys) == NAMES
    assert all(len(value) >= 16 for value in kubernetes.keys.values())
    assert kubernetes.patched() == ["secrets/esteira"]


def test_what_is_there_stays_and_only_what_is_missing_or_empty_is_made(kubernetes: Kubernetes) -> None:
    kubernetes.set_keys(
        admin_password="given by hand", email_url="smtp://mail.example.com", redis_password=""
    )

    made = cluster_keys.fill(Api())

    assert set(made) == NAMES - {"admin_password"}
    assert kubernetes.keys["admin_password"] == "given by hand"
    assert kubernetes.keys["email_url"] == "smtp://mail.example.com"
    assert kubernetes.keys["redis_password"]


def test_a_second_start_changes_nothing(kubernetes: Kubernetes) -> None:
    cluster_keys.fill(Api())
    before = kubernetes.keys

    made = cluster_keys.fill(Api())

    assert made == []
    assert kubernetes.keys == before
    assert len(kubernetes.patched()) == 1


def test_addresses_hold_the_passwords_quoted_and_names_that_other_namespaces_know(
    kubernetes: Kubernetes,
) -> None:
    kubernetes.set_keys(postgres_password="p@ss:word/1", redis_password="r#d?s word")

    cluster_keys.fill(Api())

    postgres, redis = "p%40ss%3Aword%2F1", "r%23d%3Fs%20word"
    assert (
        kubernetes.keys["database_url"] == f"postgresql://esteira:{postgres}@postgres.jobs.svc:5432/esteira"
    )
    assert kubernetes.keys["redis_url"] == f"redis://esteira:{redis}@redis:6379/0"


def test_servers_of_somebody_else_keep_their_addresses(kubernetes: Kubernetes) -> None:
    theirs = "postgresql://me:secret@db.example.com/jobs?sslmode=require"
    kubernetes.set_keys(database_url=theirs)

    cluster_keys.fill(Api())

    assert kubernetes.keys["database_url"] == theirs


def test_whoever_was_faster_wins_and_the_other_reads_again(kubernetes: Kubernetes) -> None:
    def somebody_was_faster(method: str, path: str) -> Answer | None:
        if method == "PATCH" and len(kubernetes.patched()) == 1:
            kubernetes.set_keys(admin_password="made by another")
            kubernetes.secret["metadata"]["resourceVersion"] = "2"  # type: ignore[index]
        return None

    kubernetes.instead = somebody_was_faster

    made = cluster_keys.fill(Api())

    assert kubernetes.asked == ["GET secrets/esteira", "PATCH secrets/esteira"] * 2
    assert "admin_password" not in made
    assert kubernetes.keys["admin_password"] == "made by another"


def test_two_at_once_make_one_set(kubernetes: Kubernetes) -> None:
    both_have_read = threading.Barrier(2)

    def wait_for_the_other(method: str, path: str) -> Answer | None:
        if method == "PATCH" and kubernetes.asked.count("GET secrets/esteira") == 2:
            both_have_read.wait(10)
        return None

    kubernetes.instead = wait_for_the_other
    made: list[list[str]] = []
    pods = [threading.Thread(target=lambda: made.append(cluster_keys.fill(Api()))) for _ in range(2)]

    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join(20)

    assert sorted(map(len, made)) == [0, len(NAMES)]
    assert kubernetes.keys["postgres_password"] in kubernetes.keys["database_url"]


@pytest.mark.parametrize(
    ("code", "message"),
    [(403, 'secrets "esteira" is forbidden: no get for you'), (401, "Unauthorized"), (400, "bad request")],
)
def test_what_trying_again_does_not_change_ends_at_once_with_a_sentence(
    kubernetes: Kubernetes, code: int, message: str
) -> None:
    kubernetes.instead = lambda method, path: refusal(code, message)

    with pytest.raises(SystemExit) as end:
        cluster_keys.main()

    assert str(end.value) == f"Kubernetes answers {code} to GET secrets/esteira: {message}"
    assert len(kubernetes.asked) == 1


def test_a_secret_that_is_not_there_yet_is_waited_for_and_that_is_told_once(
    kubernetes: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_at_the_third_look(method: str, path: str) -> Answer | None:
        return refusal(404, 'secrets "esteira" not found') if len(kubernetes.asked) < 3 else None

    kubernetes.instead = made_at_the_third_look

    assert set(cluster_keys.fill(Api())) == NAMES
    sentence = 'Kubernetes answers 404 to GET secrets/esteira: secrets "esteira" not found'
    assert capsys.readouterr().err.splitlines() == [sentence]


def test_after_a_minute_of_no_answer_the_last_reason_is_said(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_keys, "TRIES", 2)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))

    with pytest.raises(
        cluster_keys.NotFilled, match="Kubernetes does not answer to GET secrets/esteira: .*refused"
    ):
        cluster_keys.fill(Api())


def test_an_answer_that_is_no_json_is_tried_again(kubernetes: Kubernetes) -> None:
    kubernetes.instead = lambda method, path: (200, b"<html>a proxy") if len(kubernetes.asked) == 1 else None

    assert set(cluster_keys.fill(Api())) == NAMES


def test_a_token_that_was_replaced_is_read_again(kubernetes: Kubernetes) -> None:
    api = Api()
    cluster_keys.fill(api)

    kubernetes.rotate_token("second-token")

    assert cluster_keys.fill(api) == []


def test_a_server_that_the_account_s_authority_did_not_sign_gets_no_token(kubernetes: Kubernetes) -> None:
    kubernetes.trust_another()

    with pytest.raises(cluster_api.NotAnswered, match="CERTIFICATE_VERIFY_FAILED"):
        Api().get("secrets/esteira")

    assert not kubernetes.asked


def test_outside_of_a_pod_it_says_what_the_manifest_needs(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kubernetes.account / "namespace").unlink()

    with pytest.raises(SystemExit, match="automountServiceAccountToken: true"):
        cluster_keys.main()
