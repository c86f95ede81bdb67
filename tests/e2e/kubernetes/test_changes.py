"""Changes of a running installation: new passwords, deletion and a new apply, a server-side apply."""

from __future__ import annotations

import json
import re

import psycopg
import redis

from tests.e2e.kubernetes.conftest import Installed
from tests.support.browser import Browser
from tests.support.documents import printed
from tests.support.waiting import until

PARTS = ("statefulset/postgres", "statefulset/redis", "deploy/web", "deploy/worker", "deploy/beat")
OF_POSTGRES = ("postgres_password", "postgres_app_password", "database_url", "database_owner_url")
TAKEN_AWAY = {*OF_POSTGRES, "redis_password", "redis_url"}
FIELD_MANAGER = "--field-manager=gitops"


def run(stack: Installed, name: str) -> str:
    """Run a job to its end by the command line in a pod; return its id."""
    submit = ["manage", "jobs", "submit", "demo.greet", f"name={name}", "--wait", "--json"]
    told = json.loads(stack.kubectl("exec", "deploy/web", "--", *submit, timeout=120))
    assert told["state"] == "succeeded", told
    return str(told["id"])


def lets_in(address: str) -> bool:
    """Whether a server takes the password of an address; the way to a pod is there a moment after the pod is ready."""
    return bool(until(lambda: _answer(address), "the server answers", timeout=30) == "yes")


def _answer(address: str) -> str:
    """Say yes or no; nothing if nobody listens yet."""
    try:
        if address.startswith("redis"):
            redis.Redis.from_url(address, socket_timeout=5).ping()
        else:
            psycopg.connect(address, connect_timeout=5).close()
    except (redis.ConnectionError, psycopg.OperationalError) as error:
        if "refused" in str(error):
            return ""
        assert "password" in str(error), error
        return "no"
    return "yes"


def signs_in(stack: Installed, password: str) -> bool:
    browser = Browser(stack.web_url)
    browser.sign_in("admin", password)
    return 'type="password"' not in browser.get("/").body.decode()


def test_a_key_that_is_taken_away_is_made_again_and_the_servers_know_it(stack: Installed) -> None:
    """As docs/kubernetes.md has it for Redis, and for PostgreSQL with the keys and the parts of its row."""
    old = (stack.database_url(), stack.redis_url())
    for_redis = printed("docs/kubernetes.md", "kubectl patch secret esteira")
    away = ",".join(f'{{"op":"remove","path":"/data/{key}"}}' for key in OF_POSTGRES)
    for_postgres = re.sub(r"'\[.*?\]'", f"'[{away}]'", for_redis)
    stack.type(for_redis)
    stack.type(
        for_postgres.replace("statefulset/redis", "statefulset/postgres").replace(" deploy/flower", "")
    )
    stack.rolled_out(*PARTS, "deploy/flower")

    assert [lets_in(address) for address in old] == [False, False]
    assert lets_in(stack.database_url()) and lets_in(stack.redis_url())
    run(stack, "Ana")
    made = stack.logs("deploy/keys").splitlines()[1:]
    assert set(re.findall(r"\w+_\w+", " ".join(made))) == TAKEN_AWAY
    told = stack.logs("postgres-0", "-c", "password")
    assert "The role esteira gets the Secret's password." in told
    assert stack.secret("postgres_password") not in told


def test_deleted_and_applied_again_it_goes_on_with_its_data(stack: Installed) -> None:
    kept, old = run(stack, "Rui"), {key: stack.secret(key) for key in ("postgres_password", "admin_password")}

    stack.type(printed("docs/kubernetes.md", "kubectl delete -f k8s/\nkubectl apply"), timeout=600)

    assert all(stack.secret(key) != value for key, value in old.items())
    assert kept in stack.kubectl("exec", "deploy/web", "--", "manage", "jobs", "show", kept)
    run(stack, "Eva")
    new_password = printed(
        "docs/kubernetes.md", "kubectl get secret esteira -o jsonpath='{.data.admin_password}' | base64 -d \\"
    )
    assert "has its new password" in stack.type(new_password)
    assert signs_in(stack, stack.admin_password())
    assert not signs_in(stack, old["admin_password"])


def test_after_a_crash_the_password_is_set_on_what_was_repaired(stack: Installed) -> None:
    kept = run(stack, "Ivo")
    stack.delete_pods("postgres-0", force=True)
    until(lambda: stack.ready("postgres"), "PostgreSQL is ready", timeout=120)

    assert lets_in(stack.database_url())
    assert kept in stack.kubectl("exec", "deploy/web", "--", "manage", "jobs", "show", kept)


def test_who_applies_on_the_server_sees_no_difference(stack: Installed) -> None:
    """What Argo CD and Flux do: the second time changes nothing, and the keys that are made here are not theirs."""
    apply = ("apply", "--server-side", FIELD_MANAGER, "-f", "k8s/")
    keys = stack.get("secret", "esteira")["data"]
    stack.kubectl(*apply, timeout=120)

    def versions() -> dict[str, str]:
        kinds = "deploy,sts,svc,pdb,netpol,cm,secret,sa,role,rolebinding,pvc"
        return {
            f"{one['kind']}/{one['metadata']['name']}": str(
                one["metadata"].get("generation", one["metadata"]["resourceVersion"])
            )
            for one in stack.get(kinds)
        }

    before = versions()
    stack.kubectl(*apply, timeout=120)
    difference = stack.tried("diff", "--server-side", FIELD_MANAGER, "-f", "k8s/", timeout=120)

    assert versions() == before
    assert (difference.returncode, difference.stdout) == (0, ""), difference.stderr
    assert stack.get("secret", "esteira")["data"] == keys


def test_deleted_with_its_volumes_it_begins_with_nothing(stack: Installed) -> None:
    delete, *_ = printed("docs/kubernetes.md", "kubectl delete -f k8s/\nkubectl apply").splitlines()
    stack.type(delete)

    stack.type(printed("docs/kubernetes.md", "kubectl delete pvc postgres-postgres-0"))

    assert not stack.get("pvc")
