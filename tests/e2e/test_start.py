"""A stack from an empty folder: it becomes healthy, logs no error, and no part has more rights than it needs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client

from tests.e2e.conftest import Shared
from tests.support.browser import Browser
from tests.support.compose_stack import PARTS, ComposeStack
from tests.support.journey import TICK
from tests.support.waiting import until

#: With what is cached, the images built before; STRICT=1 holds a busy machine to it too.
START_S = 60 if os.environ.get("STRICT") else 150
QUIET_TICKS = 20
ONE_SHOTS = ("secrets", "migrate")
DAC_READ_SEARCH = 2  # its number in Linux
UNEASY = re.compile(r"warn|error|critical|fatal|traceback|exception|refused|fail|\[[WEC] \d", re.IGNORECASE)
#: What the servers say on every start, however well they are.
KNOWN = (
    # Redis, where the host does not overcommit memory: a setting of the host's kernel, not of the container's.
    "WARNING Memory overcommit must be enabled!",
    # The name of a logger: gunicorn says everything there.
    "INFO gunicorn.error: ",
)
#: Who mounts which secrets; the one-shots aside, nobody else has any.
READERS = {
    "secrets": {
        "backup",
        "django",
        "flower",
        "postgres",
        "postgres-metrics",
        "redis",
        "redis-admin",
        "redis-flower",
        "redis-metrics",
        "release",
    },
    "migrate": {"django", "redis", "release"},
    "web": {"django", "redis"},
    "worker": {"django", "redis"},
    "beat": {"django", "redis"},
    "flower": {"flower", "redis-flower"},
    "redis": {"redis", "redis-flower", "redis-admin", "redis-metrics"},
    "postgres": {"postgres"},
    "mail": set(),
}
SECRETS = {
    "secret_key": "django",
    "admin_password": "release",
    "postgres_password": "postgres",
    "postgres_app_password": "postgres",
    "redis_password": "redis",
    "redis_flower_password": "redis-flower",
    "redis_admin_password": "redis-admin",
    "postgres_metrics_password": "postgres-metrics",
    "redis_metrics_password": "redis-metrics",
    "flower_basic_auth": "flower",
}
CHANGING = (
    "worker/shutdown/celery@x",
    "worker/pool/restart/celery@x",
    "worker/pool/grow/celery@x",
    "worker/pool/shrink/celery@x",
    "worker/pool/autoscale/celery@x",
    "worker/queue/add-consumer/celery@x",
    "worker/queue/cancel-consumer/celery@x",
    "task/apply/demo.greet",
    "task/async-apply/demo.greet",
    "task/send-task/demo.greet",
    "task/abort/x",
    "task/revoke/x",
    "task/timeout/demo.greet",
    "task/rate-limit/demo.greet",
)


def test_the_stack_gets_healthy_from_nothing(stack: Shared) -> None:
    assert {part: [stack.health(one) for one in stack.ids(part)] for part in PARTS} == {
        part: ["healthy"] for part in PARTS
    }
    assert stack.started_in_s <= START_S


def test_a_quiet_start_says_nothing_bad(stack: Shared) -> None:
    until(lambda: ticks(stack) >= QUIET_TICKS, f"{QUIET_TICKS} seconds of work", timeout=60, every=0.5)

    lines = stack.logs().splitlines()
    uneasy = [line for line in lines if UNEASY.search(line) and not any(known in line for known in KNOWN)]

    assert {line.split("-")[0] for line in lines} >= {*PARTS, *ONE_SHOTS}, "somebody's log is missing"
    assert not uneasy, "\n".join(uneasy)


def ticks(stack: ComposeStack) -> int:
    return int(
        stack.db.one("SELECT count(*) FROM esteira_job WHERE type = %s AND state = 'succeeded'", [TICK])
    )


# --- Containers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_container_can_do_nothing_but_its_work(stack: Shared, part: str) -> None:
    (container,) = stack.ids(part)
    host = stack.inspect(container)["HostConfig"]

    assert_powerless(stack.execute(part, "cat", "/proc/1/status"))
    assert host["ReadonlyRootfs"]
    for folder in ("/", "/etc", "/usr"):
        assert "Read-only file system" in stack.tried("exec", "-T", part, "touch", f"{folder}/x").stderr
    assert host["Memory"] > 0 and host["NanoCpus"] > 0 and host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


@pytest.mark.parametrize("one_shot", ONE_SHOTS)
def test_a_one_shot_can_do_nothing_but_its_work(stack: Shared, one_shot: str) -> None:
    (container,) = stack.ids(one_shot, all_too=True)
    found = stack.inspect(container)

    told = stack.compose("run", "--rm", "--no-deps", "-T", one_shot, "cat", "/proc/1/status")
    if one_shot == "secrets":
        assert_only_reads(told)
    else:
        assert_powerless(told)
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["Memory"] > 0 and found["HostConfig"]["PidsLimit"] > 0
    assert found["State"]["ExitCode"] == 0


def assert_powerless(status: str) -> None:
    told = parsed(status)
    assert "0" not in told["Uid"] and "0" not in told["Gid"]
    assert told["CapEff"] == told["CapBnd"] == ["0000000000000000"]
    assert told["NoNewPrivs"] == ["1"]


def assert_only_reads(status: str) -> None:
    """It is root with one capability: to read files whatever their modes."""
    told = parsed(status)
    assert (set(told["Uid"]), set(told["Gid"])) == ({"0"}, {"10001"})
    assert told["CapEff"] == told["CapBnd"] == [f"{1 << DAC_READ_SEARCH:016x}"]
    assert told["NoNewPrivs"] == ["1"]


def parsed(status: str) -> dict[str, list[str]]:
    return {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}


def test_ports_are_published_on_this_machine_only(stack: Shared) -> None:
    found = {
        (part, binding["HostIp"])
        for part in PARTS
        for bindings in stack.inspect(stack.ids(part)[0])["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }

    assert found == {(part, "127.0.0.1") for part in ("web", "flower", "postgres", "redis")}


# --- Secrets -----------------------------------------------------------------------------------------------------------


def test_a_container_mounts_the_secrets_that_it_reads_and_no_others(stack: Shared) -> None:
    found = {}
    for service in READERS:
        (container,) = stack.ids(service, all_too=True)
        mounts = stack.inspect(container)["Mounts"]
        found[service] = {
            mount["Destination"].removeprefix("/keys/")
            for mount in mounts
            if mount["Destination"].startswith("/keys/")
        }
        writable = [m["Destination"] for m in mounts if m["Destination"].startswith("/keys/") and m["RW"]]
        assert not writable or service == "secrets"

    assert found == READERS


def test_secrets_are_files_for_their_readers_and_stand_nowhere_else(stack: Shared) -> None:
    look = (
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "secrets",
        "find",
        "/keys",
        "-type",
        "f",
        "-printf",
        "%f %m %U:%G\n",
    )
    values = secrets_of(stack)

    files = dict(line.split(" ", 1) for line in stack.compose(*look).splitlines())
    told = {service: json.dumps(stack.inspect(stack.ids(service, all_too=True)[0])) for service in READERS}

    assert set(files) == {*SECRETS, "database_url", "database_owner_url", "redis_url", "redis_passwords.json"}
    assert set(files.values()) == {"440 0:10001"}
    assert not [(s, name) for s, text in told.items() for name, value in values.items() if value in text]


def test_flower_holds_neither_the_database_s_password_nor_django_s_key(stack: Shared) -> None:
    values = secrets_of(stack)
    names = {value: name for name, value in values.items()}
    everywhere = ("grep", "-rosF", "--exclude-dir=proc", "--exclude-dir=sys", "-e", "\n".join(names), "/")

    found = [
        line.partition(":") for line in stack.tried("exec", "-T", "flower", *everywhere).stdout.splitlines()
    ]
    environment = stack.execute("flower", "cat", "/proc/1/environ")

    assert {(file, names[value]) for file, _, value in found} == {
        ("/keys/redis-flower/redis_flower_password", "redis_flower_password"),
        ("/keys/redis-flower/redis_url", "redis_flower_password"),
        ("/keys/flower/flower_basic_auth", "flower_basic_auth"),
    }
    assert not [name for value, name in names.items() if value in environment]


def secrets_of(stack: ComposeStack) -> dict[str, str]:
    """Read all secrets, as the one-shot that made them can."""
    command = ("run", "--rm", "--no-deps", "-T", "secrets", "sh", "-c")
    told = stack.compose(*command, 'cd /keys && for f in */*; do echo "${f#*/} $(cat $f)"; done')
    return {
        name: value for name, value in (line.split(" ", 1) for line in told.splitlines()) if name in SECRETS
    }


def test_given_secrets_are_used_and_the_environment_comes_before_files(
    make_stack: Callable[..., ComposeStack], tmp_path: Path
) -> None:
    given = folder(tmp_path, postgres_password="from a file: %/@", redis_password="also-from-a-file")
    stack = make_stack("given", GIVEN=str(given), REDIS_PASSWORD="from the environment")

    stack.up("postgres", "redis")

    with psycopg.connect(
        host="127.0.0.1",
        port=stack.published("postgres", 5432),
        user="esteira",
        password="from a file: %/@",
        dbname="esteira",
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("esteira",)
    with redis_client.Redis(
        port=stack.published("redis", 6379), username="esteira", password="from the environment"
    ) as client:
        assert client.ping()
    assert secrets_of(stack)["redis_password"] == "from the environment"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("short", "secrets/postgres_password has 5 characters; give at least 8"),
        (
            "two\nlines of it\n",
            "secrets/postgres_password begins or ends with a space, or contains a line break",
        ),
    ],
)
def test_a_bad_secret_is_refused_with_a_sentence_and_nothing_starts(
    make_stack: Callable[..., ComposeStack], tmp_path: Path, content: str, said: str
) -> None:
    stack = make_stack("refused", GIVEN=str(folder(tmp_path, postgres_password=content)))

    done = stack.tried("up", "-d", "--wait")

    assert done.returncode != 0
    assert said in stack.logs("secrets")
    assert "Traceback" not in stack.logs("secrets")
    assert not [part for part in PARTS if stack.ids(part)]


def folder(place: Path, **files: str) -> Path:
    """Make a folder of given secrets, which nobody but their owner may read."""
    place.chmod(0o700)
    for name, content in files.items():
        (place / name).write_text(content)
        (place / name).chmod(0o600)
    return place


# --- Flower ------------------------------------------------------------------------------------------------------------


def test_flower_asks_who_you_are_and_changes_nothing(stack: Shared) -> None:
    stranger = Browser(stack.flower_url)
    operator = Browser(stack.flower_url, stack.secret("flower_basic_auth", "flower", "flower"))
    wrong = Browser(stack.flower_url, "admin:wrong-password")

    assert [stranger.get(path).status for path in ("/", "/workers", "/tasks", "/api/workers")] == [401] * 4
    assert wrong.get("/").status == 401
    assert operator.get("/workers").status == 200
    assert {path: operator.post(f"/api/{path}").status for path in CHANGING} == dict.fromkeys(CHANGING, 403)


def test_metrics_of_flower_are_for_the_back_network_only(stack: Shared) -> None:
    login = stack.secret("flower_basic_auth", "flower", "flower")

    assert Browser(stack.flower_url).get("/metrics").status == 404
    assert Browser(stack.flower_url, login).get("/metrics").status == 404
    told = stack.execute("beat", "python", "-c", FETCH, "http://flower-metrics:5555/metrics")
    assert "flower_worker_online" in told


FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def test_flower_does_not_start_without_a_login(stack: Shared) -> None:
    for empty in ("FLOWER_BASIC_AUTH_FILE=", "FLOWER_BASIC_AUTH_FILE=/dev/null"):
        done = stack.tried("run", "--rm", "--no-deps", "-T", "-e", empty, "flower")

        assert done.returncode != 0
        assert "Flower does not start without a login: set FLOWER_BASIC_AUTH" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_the_first_page_links_to_flower(stack: Shared) -> None:
    browser = Browser(stack.web_url)

    page = browser.sign_in("admin", stack.admin_password())

    assert page.status == 200
    assert f'href="{stack.flower_url}"' in page.body.decode()


# --- Redis -------------------------------------------------------------------------------------------------------------


def test_redis_answers_nobody_without_a_login(stack: Shared) -> None:
    with (
        redis_client.Redis(port=stack.published("redis", 6379)) as client,
        pytest.raises(redis_client.AuthenticationError),
    ):
        client.ping()


def test_the_application_cannot_wipe_or_configure_redis_and_the_admin_can(stack: Shared) -> None:
    commands = ("FLUSHALL", "FLUSHDB", "CONFIG GET *", "SHUTDOWN", "KEYS *", "SAVE", "ACL LIST")

    with redis_client.Redis.from_url(stack.redis_url("esteira")) as application:
        for command in commands:
            with pytest.raises(redis_client.exceptions.NoPermissionError):
                application.execute_command(*command.split())
    with redis_client.Redis.from_url(stack.redis_url("admin")) as admin:
        assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        for command in commands:
            assert admin.execute_command("ACL", "DRYRUN", "admin", *command.split()) in ("OK", b"OK")
        assert admin.flushall()


# --- Again -------------------------------------------------------------------------------------------------------------


def test_a_second_start_keeps_secrets_data_and_what_flower_has_seen(stack: Shared) -> None:
    before = kept(stack)
    assert before["jobs"] and before["tasks"]

    stack.rest()
    stack.up()

    after = kept(stack)
    assert after["secrets"] == before["secrets"]
    assert before["jobs"] <= after["jobs"]
    assert before["tasks"] <= after["tasks"]


def kept(stack: ComposeStack) -> dict[str, Any]:
    flower = Browser(stack.flower_url, stack.secret("flower_basic_auth", "flower", "flower"))
    return {
        "secrets": secrets_of(stack),
        "jobs": {row[0] for row in stack.db.fetch("SELECT id FROM esteira_job")},
        "tasks": set(flower.get("/api/tasks").json()),
    }
