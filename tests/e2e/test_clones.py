"""Clones that are not like ours: shut to all but their owner, checked out as on Windows, beside another of their name.

One of them is an installation, run by what README and docs/operations.md say.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RUN
from tests.support.browser import Browser
from tests.support.checkout import ALONE, cloned, committed
from tests.support.compose_stack import PARTS, PREFIX, ComposeStack, removed_at_the_end
from tests.support.documents import printed
from tests.support.journey import done, submit
from tests.support.readme import Readme, Shell
from tests.support.terminal import Terminal

WORKERS = 2
AS_ON_WINDOWS = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.autocrlf", "GIT_CONFIG_VALUE_0": "true"}
SHUT = (".", "secrets", "compose/redis/start", "jobs/demo.py", "services/web/healthy.py")
RUNS = "SELECT 1 FROM esteira_job WHERE type = 'demo.slow' AND state = 'running'"
ACCOUNT = {
    "Username (leave blank to use 'esteira'):": "ana",
    "Email address:": "ana@example.com",
    "Password:": "correct horse battery staple",
    "Password (again):": "correct horse battery staple",
}
WAIT = f"""until docker compose exec -T postgres psql -U esteira -Atc "{RUNS}" </dev/null | grep -q 1; do sleep 0.2; done"""


class Clone(ComposeStack):
    """An installation in a folder of its own, with nothing of the tests in it, and images of its own."""

    def __init__(self, project: str, folder: Path, **settings: str) -> None:
        given = {"JOB_PACKAGES": "jobs", "EMAIL_URL": "", "IMAGE_PREFIX": "", **settings}
        super().__init__(project, file=folder / "compose.yaml", **given)

    def asked(self, query: str) -> list[list[str]]:
        told = self.execute("postgres", "psql", "-U", "esteira", "-At", "-c", query)
        return [line.split("|") for line in told.splitlines()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return committed(tmp_path_factory.mktemp("clones") / "repository")


@pytest.fixture(scope="module")
def stack(images: None, repository: Path) -> Iterator[Clone]:
    """Cloned and started as README says, by somebody whose files are nobody else's and whose git writes what Windows wants."""
    place = repository.parent / "first"
    place.mkdir()
    stack = Clone(
        f"{RUN}-clone", place / "esteira", WORKERS=str(WORKERS), LEASE_SECONDS="2", LOG_FORMAT="json"
    )
    lines = printed("README.md", "git clone", {"<this repository>": str(repository)})
    with removed_at_the_end(stack):
        stack.type(lines, place, umask=0o077, timeout=1200, **ALONE, **AS_ON_WINDOWS)
        yield stack


@pytest.fixture(scope="module")
def second(repository: Path) -> Path:
    """Another folder of the same name, which nothing was started in."""
    return shut_clone(repository, repository.parent / "second")


def shut_clone(repository: Path, place: Path) -> Path:
    place.mkdir()
    return cloned(repository, place / "esteira", "core.autocrlf=true", umask=0o077)


def test_a_clone_that_only_its_owner_can_read_starts_and_runs_a_job(stack: Clone) -> None:
    folder = stack.file.parent
    assert not [path for path in SHUT if (folder / path).stat().st_mode & 0o077]

    api = stack.api()

    done(api, submit(api, "demo.greet"))
    assert {part: {stack.health(one) for one in stack.ids(part)} for part in PARTS} == {
        part: {"healthy"} for part in PARTS
    }


def test_its_images_are_called_as_it_is(stack: Clone) -> None:
    found = {
        part: stack.inspect(stack.ids(part)[0])["Config"]["Image"]
        for part in ("web", "worker", "beat", "flower")
    }

    assert found == {part: f"{stack.project}-{part}:latest" for part in found}


def test_every_line_that_it_logs_is_an_object_for_collectors(stack: Clone) -> None:
    for service in ("web", "worker", "beat", "flower"):
        lines = [line.partition("|")[2].strip() for line in stack.logs(service).splitlines()]
        assert lines and all({"ts", "level", "msg"} <= set(json.loads(line)) for line in lines), service


# --- README ------------------------------------------------------------------------------------------------------------


def test_the_passwords_that_readme_shows_open_both_doors(stack: Clone) -> None:
    admin, flower = stack.type(
        printed("README.md", "docker compose run --rm --no-deps secrets cat /keys")
    ).split()

    page = Browser(stack.web_url).sign_in("admin", admin)

    assert 'action="/logout/"' in page.body.decode()
    assert Browser(stack.flower_url, flower).get("/workers").status == 200


class TestContainers(Readme):
    """What README says of both."""

    @pytest.fixture
    def folder(self, stack: Clone) -> Path:
        return stack.file.parent

    @pytest.fixture
    def shell(self, stack: Clone) -> Shell:
        return lambda lines: stack.type(printed("README.md", "manage() { docker compose exec") + lines)

    def test_the_demo_leaves_the_mail_out_and_ends_well(self, shell: Shell) -> None:
        said = shell(printed("README.md", "manage jobs demo"))

        assert "no mail server: set EMAIL_URL" in said
        assert said.count("✓") == 5 and "✗" not in said
        assert "fetch  docker compose cp web:/data/demo ." in said

    def test_there_are_as_many_workers_as_one_asks_for_until_the_next_start(self, stack: Clone) -> None:
        stack.type(printed("docs/operations.md", "docker compose up --wait --scale worker=4"))
        lost, *others = stack.ids("worker")
        assert len(others) == 3

        stack.docker("rm", "-f", lost)
        stack.type(printed("docs/operations.md", "make scale WORKERS=4"))
        assert len(stack.ids("worker")) == 4 and set(stack.ids("worker")) > set(others), "none is touched"

        stack.compose("rm", "-sf", "worker")
        stack.up()
        assert len(stack.ids("worker")) == WORKERS, "as .env says"

    def test_the_other_worker_finishes_what_docker_kill_cut_off(self, stack: Clone, shell: Shell) -> None:
        quicker = printed(
            "README.md",
            "docker compose up --wait --scale worker=2",
            {"sleep 5": WAIT, "seconds=15": "seconds=5"},
        )

        said = shell(quicker)

        assert "succeeded" in said and last_slow(stack) == [["succeeded", "2"]]
        states = [stack.inspect(one)["State"]["Status"] for one in stack.ids("worker", all_too=True)]
        assert sorted(states) == ["exited", "running"], "Docker takes it for somebody's wish"
        stack.up()
        assert len(stack.ids("worker")) == 2

    def test_docker_starts_what_died_by_itself_and_the_job_goes_on(self, stack: Clone, shell: Shell) -> None:
        before = {worker: stack.pid(worker) for worker in stack.ids("worker")}
        quicker = printed(
            "docs/chaos.md",
            "manage jobs submit demo.slow seconds=15 --wait &\nsleep 5\ndocker run",
            {"sleep 5": WAIT, "seconds=15": "seconds=5"},
        )

        said = shell(quicker)

        assert "succeeded" in said and last_slow(stack) == [["succeeded", "2"]]
        stack.wait_healthy("worker")
        after = {worker: stack.pid(worker) for worker in stack.ids("worker")}
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())


def last_slow(stack: Clone) -> list[list[str]]:
    """State and attempts of the newest slow job, which was rescued."""
    return stack.asked(
        """SELECT state, attempt FROM esteira_job j WHERE type = 'demo.slow'
             AND EXISTS (SELECT 1 FROM esteira_jobevent e WHERE e.job_id = j.id AND e.kind = 'rescued')
           ORDER BY created_at DESC LIMIT 1"""
    )


# --- docs/operations.md ------------------------------------------------------------------------------------------------


def test_an_operator_sees_what_goes_on(stack: Clone) -> None:
    connections = stack.type(
        printed("docs/operations.md", 'docker compose exec postgres psql -U esteira -c "SELECT count')
    )
    logged = stack.type(printed("docs/operations.md", "docker compose logs --since 10m worker"))
    watched = stack.type(
        printed("docs/operations.md", 'docker compose exec postgres psql -U esteira -c "SELECT state')
    )
    whose = stack.type(printed("docs/operations.md", "docker compose exec postgres psql -U esteira \\\n"))

    assert re.search(r"^ esteira +\| .* \| +[1-9]\d*$", whose, re.MULTILINE), whose
    assert re.search(r"^ +[1-9]\d*$", connections, re.MULTILINE), connections
    assert re.search(r"worker-\d .*celery@\w+ ready", logged), logged
    assert re.search(r"^ succeeded +\| +\d+ \|", watched, re.MULTILINE), watched
    assert re.search(r"\d+ [kM]B", watched) and "/var/lib/postgresql/data" in watched, watched


def test_an_operator_makes_an_account_at_a_terminal(stack: Clone) -> None:
    lines = printed("docs/operations.md", "docker compose exec web manage jobs list")
    try:
        terminal = Terminal(lines, stack.file.parent, stack.environment())
        for prompt, reply in ACCOUNT.items():
            terminal.answer(prompt, reply)
        said = terminal.end()
        page = Browser(stack.web_url).sign_in("ana", ACCOUNT["Password:"])
    finally:
        delete = "get_user_model().objects.filter(username='ana').delete()"
        stack.manage("shell", "-c", f"from django.contrib.auth import get_user_model; {delete}")

    assert "demo.slow" in said and "Superuser created successfully." in said
    assert 'action="/logout/"' in page.body.decode()


def test_a_change_of_a_server_s_settings_takes_effect_by_the_documented_line(stack: Clone) -> None:
    config = stack.file.parent / "compose" / "postgres" / "postgresql.conf"
    with config.open("a") as file:
        file.write("\nlog_min_duration_statement = 4321\n")

    stack.type(printed("docs/operations.md", "docker compose up -d --wait --force-recreate postgres"))

    assert stack.asked("SHOW log_min_duration_statement") == [["4321ms"]]
    stack.wait_healthy("postgres", "web", "worker")


def test_another_redis_carries_jobs_and_is_fed_with_what_waits(stack: Clone) -> None:
    api = stack.api()
    stack.compose("stop", "worker")
    waiting = submit(api, "demo.greet")

    stack.type(printed("docs/operations.md", "REDIS_IMAGE=redis:8.2"))

    (container,) = stack.ids("redis")
    assert stack.inspect(container)["Config"]["Image"] == "redis:8.2"
    stack.compose("start", "worker")
    done(api, waiting)
    stack.wait_healthy("worker")


def test_keys_are_put_away_and_back_by_the_documented_lines(stack: Clone) -> None:
    look = "docker compose run --rm --no-deps -T secrets sh -c 'cd /keys && ls -lnR . && sha256sum */*' </dev/null"
    before = stack.type(look)

    stack.type(printed("docs/operations.md", "mkdir -p backups\n(umask 077; docker compose run"))
    stack.type(printed("docs/operations.md", "docker compose run --rm --no-deps -T secrets tar"))

    assert stack.type(look).split() == before.split()
    assert "0 10001" in before


def test_keys_of_an_earlier_version_are_changed_after_the_line_that_a_refusal_prints(stack: Clone) -> None:
    one_shot = ("run", "--rm", "--no-deps", "-T")
    prepare = (*one_shot, "secrets", "python", "-m", "project.keys", "prepare", "admin_password")
    stack.compose(*one_shot, "--cap-add", "CHOWN", "secrets", "sh", "-c", "chown -R 10001 /keys/*")

    refused = stack.tried(*prepare)

    assert refused.returncode != 0
    assert "/keys/release belongs to another user than 0, as in earlier versions" in refused.stderr
    (line,) = re.findall(r"docker compose run .+$", refused.stderr, re.MULTILINE)
    assert stack.typed(line).returncode == 0
    stack.compose(*prepare)


# --- Beside another one ------------------------------------------------------------------------------------------------


def test_another_folder_of_the_same_name_is_refused_before_anything_happens(
    stack: Clone, second: Path
) -> None:
    before = containers(stack)

    refused = [stack.typed(line, second) for line in ("bin/up", "bin/down", "bin/upgrade")]

    for each in refused:
        assert each.returncode != 0
        assert f"An installation of this name was started in {stack.file.parent}" in each.stderr
        assert "COMPOSE_PROJECT_NAME" in each.stderr
    assert containers(stack) == before


def test_a_second_installation_has_the_name_and_the_ports_of_its_dotenv(stack: Clone, second: Path) -> None:
    (second / ".env").write_text(printed("docs/operations.md", "COMPOSE_PROJECT_NAME=esteira2"))

    unset = "env -u COMPOSE_PROJECT_NAME -u PORT -u FLOWER_PORT"
    told = json.loads(stack.type(f"{unset} docker compose config --format json", second))

    services = told["services"]
    assert told["name"] == "esteira2"
    assert {each["name"].partition("_")[0] for each in told["volumes"].values()} == {"esteira2"}
    assert services["worker"]["image"] == "esteira2-worker:latest"
    published = {name: services[name]["ports"][0]["published"] for name in ("web", "flower")}
    assert published == {"web": "8001", "flower": "5556"}


@pytest.mark.parametrize("part", ["web", "flower"])
def test_a_port_of_somebody_else_is_refused_before_anything_is_replaced(stack: Clone, part: str) -> None:
    before = containers(stack)

    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        name = {"web": "PORT", "flower": "FLOWER_PORT"}[part]
        refused = stack.typed("bin/up", **{name: str(port)})

    assert refused.returncode != 0
    assert f"Docker cannot publish 127.0.0.1:{port}, so nothing was changed" in refused.stderr
    assert containers(stack) == before


def containers(stack: Clone) -> list[str]:
    mine = f"label=com.docker.compose.project={stack.project}"
    return sorted(stack.docker("ps", "-a", "--filter", mine, "--format", "{{.ID}} {{.State}}").splitlines())


# --- STACK=dev ---------------------------------------------------------------------------------------------------------


def test_dev_refuses_code_that_it_cannot_read_and_the_line_that_it_prints_helps(
    make_stack: Callable[..., ComposeStack], repository: Path
) -> None:
    folder = shut_clone(repository, repository.parent / "third")
    made = make_stack(
        "shut", file=folder / "compose.yaml", STACK="dev", JOB_PACKAGES="jobs", IMAGE_PREFIX=PREFIX
    )
    alone = ("run", "--rm", "--no-deps", "-T")

    refused = made.tried(*alone, "migrate")

    assert refused.returncode == 1
    assert "STACK=dev runs the code of this folder as user 10001, who may not read it" in refused.stdout
    made.compose(*alone, "secrets")  # it may read everything, and hands on what the servers read
    (line,) = re.findall(r"^  (chmod .+)$", refused.stdout, re.MULTILINE)
    subprocess.run(["bash", "-euc", line], cwd=folder, check=True)
    made.compose(*alone, "migrate", "python", "-c", "import django; django.setup()")
