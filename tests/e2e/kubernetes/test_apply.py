"""`kubectl apply -f k8s/` into an empty namespace is a working system; a second time it changes nothing."""

from __future__ import annotations

import pytest

from tests.e2e.kubernetes.conftest import Installed
from tests.support.browser import Browser

#: Seconds; warm, with images that the node has.
READY_S = 180
KEYS = {
    "secret_key",
    "admin_password",
    "postgres_password",
    "redis_password",
    "redis_flower_password",
    "redis_admin_password",
    "flower_basic_auth",
    "database_url",
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
    assert fresh.secret("admin_password") not in fresh.execute(
        "worker", "sh", "-c", "env; cat /proc/1/environ"
    )


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
