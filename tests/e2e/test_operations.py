"""What operators do, by the commands that they type: back up, restore, change passwords, upgrade and go back.

A clone of the checkout is the installation; the new release comes by `git pull`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event

import psycopg
import pytest
import redis

from tests.e2e.test_dev import PASSWORD
from tests.e2e.test_start import assert_powerless
from tests.support.api_client import ApiClient
from tests.support.browser import Browser
from tests.support.checkout import cloned, committed
from tests.support.compose_stack import build_postgres_18
from tests.support.documents import printed
from tests.support.installation import NEW, OLD, Installation, release
from tests.support.invariants import check
from tests.support.journey import done, download, submit, upload
from tests.support.waiting import until

#: What keeps, and runs none of our code.
SERVERS = ("postgres", "redis")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the releases come from; there is the older one."""
    repository = committed(tmp_path_factory.mktemp("installation") / "repository")
    release(repository, OLD)
    return repository


@pytest.fixture(scope="module")
def stack(repository: Path) -> Iterator[Installation]:
    """An installation that `make up` has started, with the older release."""
    stack = Installation(cloned(repository, repository.parent / "esteira"))
    (stack.code / "secrets" / "admin_password").write_text(f"{PASSWORD}\n")
    try:
        told = stack.make("up")
        assert f"    jobs       {stack.web_url}/\n" in told
        assert f"    Flower     {stack.flower_url}/\n" in told
        _ = stack.db
        yield stack
    finally:
        stack.down()
        images = stack.docker("images", "-q", f"{stack.settings['IMAGE_PREFIX']}*").split()
        if images:
            stack.docker("rmi", "-f", *set(images))
    assert not stack.leftovers()


@pytest.fixture(scope="module")
def api(stack: Installation) -> ApiClient:
    return stack.api()


@contextmanager
def submitting(api: ApiClient) -> Iterator[list[str]]:
    """Submit over HTTP all the while, each job with a key; afterwards the list holds what was accepted.

    However quick the block was, and however slow the answers, the list has more than 20.
    """
    ids: list[str] = []
    over = Event()

    def go_on() -> None:
        for n in count():
            if over.is_set() and n > 20:
                return
            ids.append(api.submit(f"{id(ids)}-{n}", "shop.pack", {"n": n}))
            over.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        submits = pool.submit(go_on)
        try:
            yield ids
        finally:
            over.set()
        submits.result()


def signed_in(browser: Browser, password: str) -> bool:
    """Sign in as admin; return whether that worked."""
    browser.sign_in("admin", password)
    return inside(browser)


def inside(browser: Browser) -> bool:
    return 'action="/logout/"' in browser.get("/").body.decode()


def test_the_passwords_that_make_shows_open_the_doors(stack: Installation) -> None:
    told = stack.make("password")

    (password,) = re.findall(rf"jobs +{stack.web_url}/ +admin · (\S+)", told)
    (flower,) = re.findall(rf"Flower +{stack.flower_url}/ +admin · (\S+)", told)
    assert signed_in(Browser(stack.web_url), password)
    assert Browser(stack.flower_url, f"admin:{flower}").get("/api/workers").status == 200


@pytest.fixture(scope="module")
def backup(stack: Installation, api: ApiClient) -> tuple[str, dict[str, str], str, str]:
    """A backup while it runs, and another one when nothing writes; what the latter holds; a job, its file's checksum."""
    orders = [submit(api, "shop.order", n=n) for n in range(20)]
    picture = submit(api, "images.thumbnails", picture=upload(api), sizes=[64])
    done(api, picture)
    stack.wait_ended()
    stack.type(printed("docs/operations.md", "make backup\n"))

    refused = stack.tried_make("restore", "FILE=backups/none.dump")
    assert "backups/none.dump does not exist" in refused.stderr
    stack.compose("stop", "beat")
    told = stack.make("backup")
    (file,) = re.findall(r"make restore FILE=(\S+)", told)
    refused = stack.tried_make("restore", f"FILE={file}")
    assert refused.returncode and "stop them first: docker compose stop web worker beat" in refused.stderr

    checksum = hashlib.sha256(download(api, picture, "coffee-64.webp").read()).hexdigest()
    stack.compose("stop", "web", "worker")
    told = stack.make("backup")
    (file,) = re.findall(r"make restore FILE=(\S+)", told)
    assert re.search(rf"^  esteira_job +{len(orders) + 1}$", told, re.MULTILINE)
    return file, stack.content(), picture, checksum


@pytest.fixture
def timed(stack: Installation, backup: tuple[str, dict[str, str], str, str]) -> Iterator[str]:
    """The name of a dump of the same that the profile `backup` has made by itself."""
    name, _, value = printed("docs/operations.md", "COMPOSE_PROFILES=backup\n").strip().partition("=")
    stack.settings[name] = value
    stack.compose("up", "-d", "--wait", "--no-deps", "backup")
    listing = printed("docs/operations.md", "make backups")
    (name,) = until(
        lambda: re.findall(r"^(\S+) .* volume$", stack.type(listing), re.MULTILINE), "a dump is made"
    )
    assert_powerless(stack.execute("backup", "cat", "/proc/1/status"))
    assert stack.db.fetch("SELECT step, failed_at FROM esteira_backup") == [("dump", None)]
    assert name in stack.type(printed("docs/operations.md", "docker compose --profile '*' logs"))
    yield name
    del stack.settings["COMPOSE_PROFILES"]
    stack.type(printed("docs/operations.md", "docker compose --profile '*' rm"))
    stack.type(printed("docs/operations.md", 'docker compose exec postgres psql -U esteira -c "DELETE'))
    assert not stack.db.fetch("SELECT FROM esteira_backup")


def whole_again(stack: Installation, api: ApiClient, picture: str, checksum: str) -> None:
    """Check over HTTP, with the token of before, that files are what they were and jobs run."""
    assert hashlib.sha256(download(api, picture, "coffee-64.webp").read()).hexdigest() == checksum
    found = api.request(f"/api/v1/jobs/{picture}/files").json()["items"]
    assert [file["sha256"] for file in found] == [checksum]
    assert stack.db.fetch("SELECT name FROM esteira_schedule WHERE enabled") == [("shop.count",)]
    done(api, submit(api, "shop.order", n=99))


def test_a_backup_is_restored_in_place(
    stack: Installation, api: ApiClient, backup: tuple[str, dict[str, str], str, str], timed: str
) -> None:
    """One of the timer's, by its name."""
    file, content, picture, checksum = backup
    stack.db.fetch("TRUNCATE esteira_job, auth_user CASCADE")
    stack.db.fetch("CREATE TABLE of_a_later_release (id int)")
    damaged = stack.content()
    (stack.code / "cut.dump").write_bytes((stack.code / file).read_bytes()[:-2000])

    refused = stack.tried_make("restore", "FILE=cut.dump")
    assert refused.returncode and "nothing was changed" in refused.stderr
    assert stack.content() == damaged

    *restore, up = printed(
        "docs/operations.md",
        "docker compose stop web worker beat\nmake restore",
        {"backups/esteira-20261125T040302Z.dump": timed},
    ).splitlines()
    stack.type("\n".join(restore))

    assert (stack.code / "backups" / timed).exists()
    assert stack.content() == content
    stack.compose("stop", "postgres")
    stack.type(printed("docs/troubleshooting.md", "docker compose up -d --wait postgres"))
    stack.type(up)
    whole_again(stack, api, picture, checksum)


def test_a_backup_is_the_way_to_another_major_version(
    stack: Installation, api: ApiClient, backup: tuple[str, dict[str, str], str, str]
) -> None:
    """PostgreSQL 18 has its data and its image's volume elsewhere, compose where they were."""
    _, _, picture, checksum = backup
    stop, *change, up = printed(
        "docs/operations.md",
        "docker compose stop web worker beat\nmake backup",
        {
            "esteira_postgres": f"{stack.project}_postgres",
            "postgres:18-trixie": build_postgres_18(),
            "backups/esteira-20261125T040302Z.dump": "$(ls backups/*.dump | tail -n 1)",
        },
    ).splitlines()
    stack.type(stop)
    content = stack.content()

    stack.type("\n".join(change))

    assert stack.content() == content
    assert stack.db.one("SHOW server_version").startswith("18.")
    stack.type(up)
    whole_again(stack, api, picture, checksum)
    (container,) = stack.ids("postgres")
    mounts = stack.inspect(container)["Mounts"]
    volumes = {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    assert volumes == {f"{stack.project}_{name}" for name in ("postgres", "keys-postgres", "files-postgres")}
    (stack.code / ".env").unlink()


def test_a_backup_is_restored_into_new_volumes(
    stack: Installation, api: ApiClient, backup: tuple[str, dict[str, str], str, str]
) -> None:
    file, content, picture, checksum = backup
    stack.down()
    assert not stack.leftovers()

    stack.make("restore", f"FILE={file}")

    assert stack.content() == content
    stack.make("up")
    whole_again(stack, api, picture, checksum)
    assert signed_in(Browser(stack.web_url), PASSWORD)


def started(stack: Installation, part: str) -> tuple[str, str]:
    (container,) = stack.ids(part)
    return container, stack.inspect(container)["State"]["StartedAt"]


def test_make_up_replaces_nothing_by_code_that_cannot_be_loaded(stack: Installation, api: ApiClient) -> None:
    """And when it can, it ends what a profile started that is no longer wanted."""
    stack.compose("up", "-d", "--no-deps", "backup", COMPOSE_PROFILES="backup")
    before = {part: stack.ids(part) for part in ("web", "worker", "beat")}
    servers = {part: started(stack, part) for part in SERVERS}
    broken = stack.code / "jobs" / "broken.py"
    broken.write_text("import nosuchthing\n")

    refused = stack.tried_make("up")

    assert refused.returncode and "so nothing was replaced" in refused.stderr
    assert "No module named 'nosuchthing'" in refused.stdout + refused.stderr
    assert {part: stack.ids(part) for part in before} == before
    broken.write_text('"""New code, which can be loaded."""\n')
    stack.make("up")
    assert not stack.compose("--profile", "*", "ps", "-aq", "backup").split()
    assert not set(before["web"]) & set(stack.ids("web")), "the new code runs"
    assert {part: started(stack, part) for part in SERVERS} == servers, "and their servers went on"
    done(api, submit(api, "shop.order", n=98))
    broken.unlink()


def test_rotating_postgresql_s_password_loses_no_job(stack: Installation, api: ApiClient) -> None:
    old = stack.database_url()

    with submitting(api) as ids:
        stack.type(printed("docs/operations.md", "make rotate WHAT=postgres"))

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(old)
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_a_change_that_was_killed_half_way_can_be_run_again(stack: Installation, api: ApiClient) -> None:
    """PostgreSQL knows the new password already, and nobody else does."""
    keys = ("run", "--rm", "--no-deps", "-T", "secrets", "python", "-m", "project.keys")
    stack.compose(*keys, "prepare", "postgres_password", "postgres_app_password")
    stack.compose("exec", "-T", "postgres", "sh", "/esteira/password")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(stack.database_url())

    stack.make("rotate", "WHAT=postgres")

    done(api, submit(api, "shop.order", n=1))


def test_rotating_the_passwords_of_redis_loses_no_job(stack: Installation, api: ApiClient) -> None:
    old = [stack.redis_url("esteira"), stack.redis_url("admin")]

    with submitting(api) as ids:
        stack.make("rotate", "WHAT=redis")

    for address in old:
        with redis.Redis.from_url(address) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    stack.wait_ended()
    check(stack.db, ids, crashed=False)


def test_a_new_secret_key_and_a_new_admin_password_sign_out_but_keep_tokens(
    stack: Installation, api: ApiClient
) -> None:
    browser = Browser(stack.web_url)
    assert signed_in(browser, PASSWORD)
    (stack.code / "secrets" / "admin_password").write_text("given by the operator\n")

    stack.make("rotate", "WHAT=secret_key")
    assert not inside(browser)
    stack.make("rotate", "WHAT=admin")

    assert not signed_in(browser, PASSWORD)
    assert signed_in(browser, "given by the operator")
    done(api, submit(api, "shop.order", n=1))


def test_flower_opens_with_its_new_password_only(stack: Installation) -> None:
    old = stack.secret("flower_basic_auth", "flower", "flower")

    stack.make("rotate", "WHAT=flower")

    new = stack.secret("flower_basic_auth", "flower", "flower")
    assert Browser(stack.flower_url, old).get("/api/workers").status == 401
    assert Browser(stack.flower_url, new).get("/api/workers").status == 200
    stack.compose("stop", "flower")


def test_a_new_release_runs_what_the_old_one_queued_and_the_old_one_comes_back(
    stack: Installation, api: ApiClient, repository: Path
) -> None:
    stack.pause("orders")
    waiting = [submit(api, "shop.order", n=n) for n in range(50)]
    release(repository, NEW)

    with submitting(api) as ids:
        stack.type(printed("docs/operations.md", "git pull\nmake upgrade"))

    stack.resume("orders")
    stack.wait_ended()
    check(stack.db, [*waiting, *ids], crashed=False)
    assert stack.made_by(waiting) == {"new"}

    stack.pause("orders")
    gifts = [submit(api, "shop.order", n=n, gift=True) for n in range(10)]
    refunds = [submit(api, "shop.refund", n=n) for n in range(10)]
    stack.type(printed("docs/operations.md", "make rollback"))
    stack.resume("orders")
    plain = [submit(api, "shop.order", n=n) for n in range(10)]
    stack.wait_ended(plain)

    assert stack.made_by(plain) == {"old"}
    # An old worker claims a gift before it sees a parameter that it does not know, and gives it back.
    until(lambda: stack.db.counts([*gifts, *refunds]) == {"queued": 20}, "what is new waits")

    stack.make("upgrade", "IMAGES=there", "BACKUP=no")

    stack.wait_ended()
    check(stack.db, [*gifts, *refunds, *plain], crashed=False)
    assert stack.made_by([*gifts, *refunds]) == {"new"}


def test_a_server_of_somebody_else_is_used_by_its_address(stack: Installation, api: ApiClient) -> None:
    """Another database in the same server, reached by another name: what is given in DATABASE_URL, and nothing else."""
    stack.db.fetch("CREATE ROLE manager LOGIN PASSWORD 'managed-elsewhere'")
    stack.db.fetch("CREATE DATABASE managed OWNER manager")
    url = f"postgresql://manager:managed-elsewhere@{stack.project}-postgres-1:5432/managed"
    stack.settings["DATABASE_URL"] = url

    stack.compose("up", "-d", "--wait", "--force-recreate", "web")

    found = stack.api()
    assert found.request("/api/v1/jobs").json()["items"] == []
    refused = [stack.tried_make("backup"), stack.tried_make("rotate", "WHAT=postgres")]
    assert all(
        each.returncode and "DATABASE_URL is the address of a server outside this stack" in each.stderr
        for each in refused
    )
