"""A whole stack of real processes for one test: servers, workers, beats, web; and ways to wait and look.

The servers live as long as the run of the suite and are emptied before each test; the processes are started
by the test and killed after it. PostgreSQL confirms nothing before it is on disk, as in production.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis as redis_client

from project.local.embedded import Postgres, Valkey, free_port
from tests.support import forks
from tests.support.api_client import ApiClient
from tests.support.forks import environment
from tests.support.job_waits import Watch
from tests.support.observer import Observer
from tests.support.processes import Process, Submitter, gunicorn
from tests.support.waiting import until

LEASE_S = 2.0
KEPT_TABLES = ("django_migrations", "django_content_type", "auth_permission")


class Servers:
    """A durable PostgreSQL, migrated once, and a Valkey that keeps nothing."""

    def __init__(self, postgres: Postgres | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="esteira-chaos-"))
        self.home.chmod(0o711)
        self.postgres = postgres or Postgres(self.home / "postgres")
        self.valkey = Valkey(self.home / "redis")
        self.postgres.start()
        self.valkey.start()
        env = environment(**self.addresses(), JOB_PACKAGES="tests.support.chaos_jobs")
        manage("migrate", "--verbosity", "0", env=env)
        observer = Observer(self.postgres.url)
        observer.fetch(
            """CREATE TABLE effect (id bigserial PRIMARY KEY, job_id uuid NOT NULL, attempt int NOT NULL,
                 at timestamptz NOT NULL DEFAULT clock_timestamp())"""
        )
        observer.close()

    def addresses(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url_of("esteira_app", "app"),
            "DATABASE_OWNER_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "DATA_DIR": str(self.home / "data"),
            "EMAIL_URL": "memorymail://",
        }

    def renew(self) -> None:
        """Empty both, starting again what a test has ended."""
        self.valkey.kill()
        self.valkey.start()
        if not (self.postgres.process and self.postgres.process.poll() is None):
            self.postgres.start()
        observer = Observer(self.postgres.url)
        tables = observer.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = ", ".join(name for (name,) in tables if name not in KEPT_TABLES)
        observer.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
        observer.fetch(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        observer.fetch("INSERT INTO esteira_keeper (id) VALUES (1)")
        observer.close()

    def stop(self) -> None:
        self.postgres.stop("immediate")
        self.valkey.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def manage(*arguments: str, env: dict[str, str]) -> str:
    done = forks.completed(["manage", *arguments], env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


class ProcessStack(Watch):
    """The processes of one test, around the servers."""

    def __init__(self, servers: Servers, logs: Path, **settings: str) -> None:
        self.servers, self.logs = servers, logs
        self.settings = {
            "JOB_PACKAGES": "tests.support.chaos_jobs",
            "LEASE_SECONDS": f"{LEASE_S:g}",
            "DRAIN_SECONDS": "2",
            "CONCURRENCY": "2",
            **settings,
        }
        self.processes: list[Process] = []
        self.db = Observer(servers.postgres.url)
        self.submitter = Submitter(self.environment(), logs)

    @property
    def postgres(self) -> Postgres:
        return self.servers.postgres

    @property
    def valkey(self) -> Valkey:
        return self.servers.valkey

    @property
    def redis(self) -> redis_client.Redis:
        address = self.settings.get("REDIS_URL", self.valkey.url)
        return redis_client.Redis.from_url(address, socket_timeout=5)

    @property
    def lease_s(self) -> float:
        return float(self.settings["LEASE_SECONDS"])

    def environment(self, **more: str) -> dict[str, str]:
        return environment(**{**self.servers.addresses(), **self.settings, **more})

    def worker(
        self,
        name: str = "w1",
        alias: str = "",
        *,
        wait: bool = True,
        flags: Sequence[str] = (),
        **settings: str,
    ) -> Process:
        """Start a worker; its jobs' `worker` begins with `name` and an @. `alias` names its log."""
        arguments = ["celery", "-A", "project", "worker", "-l", "info", "--hostname", f"{name}@test", *flags]
        process = Process(alias or name, arguments, self.environment(**settings), self.logs)
        return self._start(process, "worker", wait)

    def beat(self, name: str = "beat", *, wait: bool = True, **settings: str) -> Process:
        """Start a beat, and the keeper in it."""
        arguments = ["celery", "-A", "project", "beat", "-l", "info"]
        return self._start(Process(name, arguments, self.environment(**settings), self.logs), "beat", wait)

    def web(self, name: str = "web", **settings: str) -> Process:
        """Start web on a port of its own; `web_url` says where."""
        port = free_port()
        self.web_url = f"http://127.0.0.1:{port}"
        process = Process(name, gunicorn(f"127.0.0.1:{port}"), self.environment(**settings), self.logs)
        self._start(process, None, False)
        self.wait_ready(process)
        return process

    def flower(self, name: str = "flower", **settings: str) -> Process:
        """Start Flower on a port of its own, and wait until it listens to Celery's events."""
        arguments = ["celery", "-A", "project", "flower", "--address=127.0.0.1", f"--port={free_port()}"]
        others = self.listeners()
        process = self._start(Process(name, arguments, self.environment(**settings), self.logs), None, False)
        until(lambda: self.listeners() > others or not process.alive(), "Flower listens to Celery's events")
        assert process.alive(), process.last_words()
        return process

    def listeners(self) -> int:
        """Count the connections that listen to what is published in Redis."""
        return len(self.redis.client_list(_type="pubsub"))

    def again(self, process: Process, *, wait: bool = True) -> None:
        """Start a process again under its name, as a container runtime would."""
        process.start()
        if wait:
            self.wait_ready(process)

    def wait_ready(self, process: Process) -> None:
        if "gunicorn" in process.arguments:
            until(lambda: ApiClient(self.web_url, "").request("/readyz").status == 200, "web is ready")
            return
        sign = "beat" if "beat" in process.arguments else "worker"
        until(lambda: process.touched(sign), f"{process.name} has started", timeout=60)
        if sign == "worker":
            until(lambda: self._serves(process), f"{process.name} serves its queues", timeout=60)

    def _serves(self, process: Process) -> bool:
        return process.touched("worker") and " ready." in process.output()

    def manage(self, *arguments: str, **more: str) -> str:
        """Run a management command with this stack's settings; return what it printed."""
        return manage(*arguments, env=self.environment(**more))

    def api(self) -> ApiClient:
        """Make an account and a token for it; web must have been started."""
        self.manage(
            "createsuperuser",
            "--noinput",
            "--username",
            "chaos",
            "--email",
            "",
            DJANGO_SUPERUSER_PASSWORD="x",
        )
        token = json.loads(self.manage("jobs", "token", "chaos", "--role", "operator", "--json"))["token"]
        return ApiClient(self.web_url, token)

    def _start(self, process: Process, sign: str | None, wait: bool) -> Process:
        self.processes.append(process)
        process.start()
        if wait and sign:
            self.wait_ready(process)
        return process

    def stop(self) -> None:
        """End every process; call it at the end of every test, however it went."""
        self.submitter.stop()
        for process in self.processes:
            process.kill()
        self.db.close()

    def submit(self, name: str, many: int | Sequence[dict[str, Any]], **options: Any) -> list[str]:
        """Submit jobs of a type from another process, by its short name such as `work`."""
        return self.submitter.submit_all(name, many, **options)

    def another_submitter(self) -> None:
        """Go on submitting from a new process, which knows nothing but what is in the database."""
        self.submitter.stop()
        self.submitter.start()

    def anybody(self) -> bool:
        return any(process.alive() for process in self.processes)
