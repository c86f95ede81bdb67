"""Clones that are not like ours: shut to all but their owner, checked out as on Windows, beside another of their name.

One of them is an installation, run by what README and docs/operations.md say.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RUN
from tests.repo.test_docs import FENCE
from tests.repo.tree import text
from tests.support.checkout import cloned, committed
from tests.support.containers import PARTS, PREFIX, Containers, built_and_started
from tests.support.journey import done, submit

WORKERS = 2
SHUT = (".", "secrets", "compose/redis/start", "jobs/demo.py", "services/web/healthy.py")
RUNS = "SELECT 1 FROM esteira_job WHERE type = 'demo.slow' AND state = 'running'"
WAIT = f"""until docker compose exec -T postgres psql -U esteira -Atc "{RUNS}" </dev/null | grep -q 1; do sleep 0.2; done"""


class Clone(Containers):
    """An installation in a folder of its own, with nothing of the tests in it, and images of its own."""

    def __init__(self, project: str, folder: Path, **settings: str) -> None:
        given = {"JOB_PACKAGES": "jobs", "EMAIL_URL": "", "IMAGE_PREFIX": "", **settings}
        super().__init__(project, file=folder / "compose.yaml", **given)

    def typed(
        self, line: str, *, folder: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run what somebody types in the clone's folder, or in another one, however it ends."""
        return subprocess.run(
            ["bash", "-euc", line],
            cwd=folder or self.file.parent,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def asked(self, query: str) -> list[list[str]]:
        told = self.execute("postgres", "psql", "-U", "esteira", "-At", "-c", query)
        return [line.split("|") for line in told.splitlines()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return committed(tmp_path_factory.mktemp("clones") / "repository")


def shut_clone(repository: Path, place: Path) -> Path:
    """Clone as somebody does whose files are nobody else's, and whose git writes what Windows wants."""
    place.mkdir()
    return cloned(repository, place / "esteira", "core.autocrlf=true", umask=0o077)


@pytest.fixture(scope="module")
def stack(images: None, repository: Path) -> Iterator[Clone]:
    folder = shut_clone(repository, repository.parent / "first")
    stack = Clone(f"{RUN}-clone", folder, WORKERS=str(WORKERS), LEASE_SECONDS="2")
    with built_and_started(stack):
        yield stack


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


def test_as_many_workers_as_its_dotenv_says_are_there_after_each_start(stack: Clone) -> None:
    assert len(stack.ids("worker")) == WORKERS

    stack.compose("rm", "-sf", "worker")
    stack.up()

    assert len(stack.ids("worker")) == WORKERS


# --- README: Break it --------------------------------------------------------------------------------------------------


def test_the_other_worker_finishes_what_docker_kill_cut_off(stack: Clone) -> None:
    before = stack.ids("worker")

    said = break_it(stack, "docker kill")

    (end,) = last_slow(stack)
    assert "succeeded" in said and end[:2] == ["succeeded", "2"]
    (killed,) = set(before) - set(stack.ids("worker"))
    assert stack.inspect(killed)["State"]["Status"] == "exited", "Docker takes it for somebody's wish"
    stack.up()
    assert set(stack.ids("worker")) == set(before)


def test_docker_starts_what_died_by_itself_and_the_job_goes_on(stack: Clone) -> None:
    before = {worker: stack.pid(worker) for worker in stack.ids("worker")}

    said = break_it(stack, "--pid host")

    (end,) = last_slow(stack)
    assert "succeeded" in said and end[:2] == ["succeeded", "2"]
    stack.wait_healthy("worker")
    after = {worker: stack.pid(worker) for worker in stack.ids("worker")}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())


def break_it(stack: Clone, by: str) -> str:
    """Run README's lines, with a job that takes less, and as soon as it runs; return what they printed."""
    (block,) = [block for kind, block in FENCE.findall(text("README.md")) if kind == "sh" and by in block]
    quicker = (
        block.replace("seconds=15", "seconds=5")
        .replace("sleep 5", WAIT)
        .replace("esteira-web", f"{stack.project}-web")
    )
    assert WAIT in quicker and "seconds=5" in quicker

    ended = stack.typed(quicker)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def last_slow(stack: Clone) -> list[list[str]]:
    """State and attempts of the newest slow job, which was rescued."""
    return stack.asked(
        """SELECT state, attempt FROM esteira_job j WHERE type = 'demo.slow'
             AND EXISTS (SELECT 1 FROM esteira_jobevent e WHERE e.job_id = j.id AND e.kind = 'rescued')
           ORDER BY created_at DESC LIMIT 1"""
    )


# --- docs/operations.md ------------------------------------------------------------------------------------------------


def test_a_change_of_a_server_s_settings_takes_effect_by_the_documented_line(stack: Clone) -> None:
    config = stack.file.parent / "compose" / "redis" / "redis.conf"
    config.write_text(config.read_text().replace("timeout 0\n", "timeout 86400\n"))

    ended = stack.typed("docker compose up -d --wait --force-recreate redis")

    assert ended.returncode == 0, ended.stderr
    assert stack.execute("redis", "grep", "^timeout", "/esteira/redis.conf") == "timeout 86400\n"
    stack.wait_healthy("redis", "worker")


def test_keys_are_put_away_and_back_by_the_documented_lines(stack: Clone) -> None:
    blocks = [block for kind, block in FENCE.findall(text("docs/operations.md")) if kind == "sh"]
    away, back = [block for block in blocks if "keys.tar" in block]
    look = "docker compose run --rm --no-deps -T secrets sh -c 'cd /keys && ls -lnR . && sha256sum */*' </dev/null"
    before = stack.typed(look)

    ended = stack.typed(f"mkdir -p backups\n{away}\n{back}")

    assert ended.returncode == 0, ended.stderr
    assert stack.typed(look).stdout.split() == before.stdout.split()
    assert "0 10001" in before.stdout


def test_keys_of_an_earlier_version_are_changed_after_the_line_that_a_refusal_prints(stack: Clone) -> None:
    one_shot = ("run", "--rm", "--no-deps", "-T")
    prepare = (*one_shot, "secrets", "python", "-m", "project.keys", "prepare", "admin_password")
    stack.compose(*one_shot, "--cap-add", "CHOWN", "secrets", "sh", "-c", "chown -R 10001 /keys/*")

    refused = stack.tried(*prepare)

    assert refused.returncode != 0
    assert "/keys/django belongs to another user than 0, as earlier versions had it" in refused.stderr
    (line,) = re.findall(r"docker compose run .+$", refused.stderr, re.MULTILINE)
    assert stack.typed(line).returncode == 0
    stack.compose(*prepare)


# --- Beside another one ------------------------------------------------------------------------------------------------


def test_another_folder_of_the_same_name_is_refused_before_anything_happens(
    stack: Clone, repository: Path
) -> None:
    other = shut_clone(repository, repository.parent / "second")
    before = containers(stack)

    refused = [stack.typed(line, folder=other) for line in ("compose/up", "compose/down", "compose/upgrade")]

    for each in refused:
        assert each.returncode != 0
        assert f"An installation of this name was started in {stack.file.parent}" in each.stderr
        assert "COMPOSE_PROJECT_NAME" in each.stderr
    assert containers(stack) == before


@pytest.mark.parametrize("part", ["web", "flower"])
def test_a_port_of_somebody_else_is_refused_before_anything_is_replaced(stack: Clone, part: str) -> None:
    before = containers(stack)

    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        name = {"web": "PORT", "flower": "FLOWER_PORT"}[part]
        refused = stack.typed("compose/up", **{name: str(port)})

    assert refused.returncode != 0
    assert f"Docker cannot publish 127.0.0.1:{port}, so nothing was changed" in refused.stderr
    assert containers(stack) == before


def containers(stack: Clone) -> list[str]:
    mine = f"label=com.docker.compose.project={stack.project}"
    return sorted(stack.docker("ps", "-a", "--filter", mine, "--format", "{{.ID}} {{.State}}").splitlines())


# --- STACK=dev ---------------------------------------------------------------------------------------------------------


def test_dev_refuses_code_that_it_cannot_read_and_the_line_that_it_prints_helps(
    make_stack: Callable[..., Containers], repository: Path
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
