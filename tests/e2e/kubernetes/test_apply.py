"""`kubectl apply -f k8s/` into an empty namespace is a working system; a second time it changes nothing."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from project.local.embedded import free_port
from tests.e2e.kubernetes.conftest import Installed
from tests.support.browser import Browser
from tests.support.documents import printed

#: Seconds; warm, with images that the node has.
READY_S = 180
KEYS = {
    "secret_key",
    "admin_password",
    "postgres_password",
    "postgres_app_password",
    "redis_password",
    "redis_flower_password",
    "redis_admin_password",
    "postgres_metrics_password",
    "redis_metrics_password",
    "flower_basic_auth",
    "database_url",
    "database_owner_url",
    "redis_url",
    "flower_redis_url",
}
#: kubectl sends the selector of a budget each time, whatever is there, and then says "configured"; nothing changes.
BUDGET = "poddisruptionbudget.policy"
KINDS = "deploy,sts,svc,pdb,netpol,cm,secret,sa,role,rolebinding,pvc"


def test_it_is_available_without_a_warning(fresh: Installed) -> None:
    assert fresh.available_in_s <= READY_S
    assert fresh.warnings == ""
    assert len(fresh.ready("web")) == 2 and len(fresh.ready("beat")) == 2
    assert len(fresh.ready("worker")) == len(fresh.ready("flower")) == 1


def test_its_pods_are_what_the_strictest_namespace_allows(fresh: Installed) -> None:
    """They run there; and the words that Kubernetes checks are not all that is meant."""
    for pod in fresh.get("pods", **{"app.kubernetes.io/part-of": "esteira"}):
        spec, name = pod["spec"], pod["metadata"]["name"]
        asks = any("serviceAccountToken" in str(volume) for volume in spec["volumes"])
        assert asks == name.startswith("keys-"), name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name


def test_every_key_is_made_and_no_pod_knows_more_than_it_needs(fresh: Installed) -> None:
    assert set(fresh.get("secret", "esteira")["data"]) == KEYS
    in_flower = fresh.execute("flower", "sh", "-c", "cat /proc/1/environ | tr '\\0' '\\n'")
    assert fresh.secret("redis_flower_password") in in_flower
    for key in (
        "redis_password",
        "postgres_password",
        "secret_key",
        "admin_password",
        "redis_admin_password",
    ):
        assert fresh.secret(key) not in in_flower
    for part in ("web", "worker", "beat"):
        told = fresh.execute(part, "sh", "-c", "env; cat /proc/1/environ")
        for key in ("admin_password", "postgres_password", "redis_admin_password"):
            assert fresh.secret(key) not in told, (part, key)


def test_a_second_apply_changes_nothing(fresh: Installed) -> None:
    def state() -> dict[str, tuple[str, object]]:
        """A version tells of changes of any kind where no controller writes; generations, of what was asked for."""
        return {
            f"{one['kind']}/{one['metadata']['name']}": (
                one["metadata"]["uid"],
                one["metadata"].get("generation", one["metadata"]["resourceVersion"]),
            )
            for one in fresh.get(KINDS)
            if not one["metadata"]["name"].startswith("kube-root")
        }

    before = state()
    said = fresh.apply()

    assert state() == before
    changed = [line for line in said.splitlines() if not line.endswith(" unchanged")]
    assert [line.split("/")[0] for line in changed] == [BUDGET] * 3, changed
    difference = fresh.tried("diff", "-f", "k8s/", timeout=120)
    assert (difference.returncode, difference.stdout) == (0, ""), difference.stderr


def test_another_release_is_applied_at_any_moment(fresh: Installed) -> None:
    """The server says what it would do with the next tag; Kubernetes changes no Job that is there, so there is none."""
    released = fresh.kubectl("kustomize", "k8s").replace(":latest", ":1.2.0")

    said = fresh.kubectl("apply", "--dry-run=server", "-f", "-", stdin=released)

    assert "deployment.apps/keys configured (server dry run)" in said.splitlines()
    assert not fresh.get("jobs")


def test_the_keys_are_looked_at_in_silence(fresh: Installed) -> None:
    said = fresh.logs("deploy/keys").splitlines()

    assert [line.split()[0] for line in said] == ["made"], said
    assert not any(fresh.secret(key) in "".join(said) for key in KEYS)


def test_both_doors_ask_who_is_there(fresh: Installed) -> None:
    fresh.open_doors()
    web, flower = Browser(fresh.web_url), Browser(fresh.flower_url)
    known = Browser(fresh.flower_url, fresh.secret("flower_basic_auth"))

    assert web.get("/readyz").json()["status"] == "pass"
    assert "password" in web.get("/").body.decode()
    assert flower.get("/").status == 401
    assert known.get("/").status == 200
    assert known.get("/metrics").status == 404
    assert web.sign_in("admin", fresh.admin_password()).status == 200


@pytest.mark.parametrize("part", ["web", "worker", "beat", "flower", "redis", "postgres"])
def test_it_runs_as_a_numbered_user(fresh: Installed, part: str) -> None:
    assert fresh.execute(part, "id", "-u").strip() == ("999" if part in ("redis", "postgres") else "10001")


# --- docs/kubernetes.md: Install it ------------------------------------------------------------------------------------


def test_the_passwords_that_are_shown_open_the_doors_that_are_forwarded(fresh: Installed) -> None:
    ports = [free_port(), free_port()]
    *show, web, flower = printed(
        "docs/kubernetes.md",
        "kubectl get secret esteira -o jsonpath='{.data.admin_password}' | base64 -d; echo",
        {"svc/web 8000": f"svc/web {ports[0]}:8000", "svc/flower 5555": f"svc/flower {ports[1]}:5555"},
    ).splitlines()

    admin, login = fresh.type("\n".join(show)).split()
    with forwarded(fresh, web, flower):
        doors = [Browser(f"http://127.0.0.1:{port}") for port in ports]
        page = doors[0].sign_in("admin", admin)
        overview = Browser(doors[1].url, login).get("/")

    assert 'action="/logout/"' in page.body.decode()
    assert overview.status == 200


@contextmanager
def forwarded(fresh: Installed, *lines: str) -> Iterator[None]:
    """Each line stays in a terminal of its own, until somebody ends it."""
    with fresh.chosen() as env, ExitStack() as ends:
        for line in lines:
            terminal = subprocess.Popen(shlex.split(line), env=env, stdout=subprocess.PIPE, text=True)
            ends.enter_context(terminal)
            ends.callback(terminal.terminate)
            assert terminal.stdout and "Forwarding from 127.0.0.1" in terminal.stdout.readline(), line
        yield


def test_the_first_job_runs(fresh: Installed) -> None:
    said = fresh.type(
        printed("docs/kubernetes.md", "kubectl exec deploy/web -- manage jobs submit demo.greet")
    )

    assert "Hello Ana" in said and "demo.greet" in said.rpartition("Hello Ana")[2]


def test_copies_of_the_keys_and_of_the_database_are_whole_and_private(
    fresh: Installed, tmp_path: Path
) -> None:
    fresh.type(printed("docs/kubernetes.md", "mkdir -p backups\n(umask 077; kubectl get secret"), tmp_path)
    fresh.type(
        printed("docs/kubernetes.md", "mkdir -p backups\n(umask 077; kubectl exec postgres-0"), tmp_path
    )

    copies = {path.name: path for path in (tmp_path / "backups").iterdir()}
    assert {name: path.stat().st_mode & 0o077 for name, path in copies.items()} == {
        "keys.yaml": 0,
        "esteira.dump": 0,
    }
    assert set(yaml.safe_load(copies["keys.yaml"].read_text())["data"]) == KEYS
    held = fresh.type("kubectl exec -i postgres-0 -- pg_restore --list < backups/esteira.dump", tmp_path)
    assert "TABLE DATA public esteira_job esteira" in held
