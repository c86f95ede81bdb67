"""The exporters, as compose and Kubernetes start them, beside real servers; and what their logins may do.

Debian's builds stand in for the images. The disk's needs a mount of its name, so here it is only started.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
import yaml

from project.local.embedded import free_port
from tests.repo.compose_files import filled
from tests.support.backup_scripts import PROGRAMS
from tests.support.forks import ROOT
from tests.support.servers import SuiteServers
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database")
PASSWORD = "a-$PASSWORD:%/@"
NAMES = {"postgres": "postgres-exporter", "redis": "redis-exporter", "disk": "disk-exporter"}
DEBIAN_S = {
    "postgres": "prometheus-postgres-exporter",
    "redis": "prometheus-redis-exporter",
    "disk": "prometheus-node-exporter",
}
WAYS = ("compose", "kubernetes")


def started_as(way: str, server: str) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment as one of both ways gives them."""
    if way == "compose":
        found = yaml.safe_load(filled((ROOT / "compose" / "exporters.yaml").read_text()))["services"][
            NAMES[server]
        ]
        return [each.replace("$$", "$") for each in found["command"]], found.get("environment", {})
    objects = yaml.safe_load_all((ROOT / "k8s" / "exporters" / f"{server}.yaml").read_text())
    (pod,) = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"]
    container: Mapping[str, Any] = pod["containers"][0]
    return container["args"], {one["name"]: one.get("value", PASSWORD) for one in container["env"]}


@contextmanager
def exporter(way: str, server: str, address: str, keys: Path) -> Iterator[str]:
    """Run one at a port of its own, with our server's address for the name of theirs; give its log and its page."""
    program = shutil.which(DEBIAN_S[server])
    if not program and not os.environ.get("CI"):
        pytest.skip(f"{DEBIAN_S[server]} is not here, so nothing is measured by it")
    assert program, f"{DEBIAN_S[server]} is missing"
    port = free_port()
    arguments, given = started_as(way, server)

    def ours(text: str) -> str:
        text = re.sub(r"^--web.listen-address=:\d+$", f"--web.listen-address=127.0.0.1:{port}", text)
        return re.sub(r"\b(postgres:5432|redis:6379)\b", address, text.replace("/keys/", f"{keys}/"))

    env = {"PATH": os.environ["PATH"], **{name: ours(value) for name, value in given.items()}}
    with (keys / "log").open("wb") as log:
        process = subprocess.Popen([program, *map(ours, arguments)], env=env, stdout=log, stderr=log)
    try:
        page = until(lambda: _page(port, process, keys / "log"), f"{program} answers")
        yield page
    finally:
        process.terminate()
        process.wait(20)


def _page(port: int, process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture
def role(servers: SuiteServers, tmp_path: Path) -> Iterator[str]:
    """The role that the script makes, twice; an address of it."""
    for _ in range(2):
        done = subprocess.run(
            ["sh", str(ROOT / "k8s" / "exporters" / "login")],
            env={
                "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(servers.postgres.port),
                "PGUSER": servers.postgres.user,
                "PGPASSWORD": servers.postgres.password,
                "PGDATABASE": servers.postgres.database,
                "METRICS_PASSWORD": PASSWORD,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    yield f"postgresql://esteira_metrics@127.0.0.1:{servers.postgres.port}/{servers.postgres.database}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY esteira_metrics; DROP ROLE esteira_metrics")


@pytest.mark.parametrize("way", WAYS)
def test_postgresql_is_measured(way: str, role: str, servers: SuiteServers, tmp_path: Path) -> None:
    (tmp_path / "postgres-metrics").mkdir()
    (tmp_path / "postgres-metrics" / "postgres_metrics_password").write_text(PASSWORD)

    with exporter(way, "postgres", f"127.0.0.1:{servers.postgres.port}", tmp_path) as page:
        assert re.search(r"^pg_up 1$", page, re.MULTILINE)
        assert re.search(r'^pg_stat_database_xact_commit\{.*datname="esteira"', page, re.MULTILINE)
        assert re.search(r'^pg_database_size_bytes\{[^}]*datname="esteira"[^}]*\} [1-9]', page, re.MULTILINE)


def test_the_role_reads_statistics_and_no_row(role: str) -> None:
    with psycopg.connect(role, password=PASSWORD, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_activity").fetchone()
        for forbidden in ("SELECT * FROM esteira_job", "DELETE FROM esteira_job", "SELECT * FROM pg_authid"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)


@pytest.fixture
def login(redis: redis_client.Redis) -> Iterator[str]:
    """The rights that the server is started with, for a login of the same name."""
    script = (ROOT / "compose" / "redis" / "start").read_text()
    (rights,) = re.findall(r"^user metrics on #\$\(hashed .*\) (.+)$", script, re.MULTILINE)
    redis.execute_command("ACL", "SETUSER", "metrics", "reset", "on", f">{PASSWORD}", *rights.split())
    yield "metrics"
    redis.execute_command("ACL", "DELUSER", "metrics")


@pytest.mark.parametrize("way", WAYS)
def test_redis_is_measured(way: str, login: str, servers: SuiteServers, tmp_path: Path) -> None:
    """Compose gives the password in a file, which names the address that it is for."""
    address = f"127.0.0.1:{servers.valkey.port}"
    (tmp_path / "redis-metrics").mkdir()
    (tmp_path / "redis-metrics" / "redis_passwords.json").write_text(
        f'{{"redis://{login}@{address}": "{PASSWORD}"}}'
    )

    with exporter(way, "redis", address, tmp_path) as page:
        assert re.search(r"^redis_up 1$", page, re.MULTILINE)
        assert re.search(r"^redis_memory_used_bytes [1-9]", page, re.MULTILINE)
        assert re.search(r"^redis_connected_clients [1-9]", page, re.MULTILINE)


def test_the_login_says_info_and_nothing_of_what_is_stored(
    login: str, redis: redis_client.Redis, servers: SuiteServers
) -> None:
    redis.set("esteira:hint", "secret")

    with redis_client.Redis(port=servers.valkey.port, username=login, password=PASSWORD) as client:
        assert client.ping() and client.info()
        for forbidden in (
            ("GET", "esteira:hint"),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
            ("FLUSHALL",),
            ("MONITOR",),
        ):
            with pytest.raises(redis_client.exceptions.NoPermissionError):
                client.execute_command(*forbidden)


def test_the_disk_s_exporter_takes_its_arguments_and_tells_of_no_other_disk(tmp_path: Path) -> None:
    with exporter("compose", "disk", "", tmp_path) as page:
        assert "node_exporter_build_info" in page
        assert not re.findall(r'mountpoint="/(?!postgres)', page)
