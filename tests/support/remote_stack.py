"""What runs elsewhere, in containers or in a cluster, and is reached from this host: its servers, its API, its command line."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tests.support.api_client import ApiClient
from tests.support.forks import ROOT, environment
from tests.support.job_waits import Watch
from tests.support.observer import Observer
from tests.support.processes import Submitter

#: What an installation under test loads beside its own job types.
CHAOS_JOBS = "jobs,tests.support.chaos_jobs"


class RemoteStack(Watch, ABC):
    """An installation with the settings that it was given; subclasses say where it is."""

    settings: dict[str, str]

    @property
    @abstractmethod
    def web_url(self) -> str:
        """Where web answers this host."""

    @property
    @abstractmethod
    def flower_url(self) -> str:
        """Where Flower answers this host."""

    @abstractmethod
    def database_url(self) -> str:
        """Return PostgreSQL's address for this host."""

    @abstractmethod
    def redis_url(self, user: str = "esteira") -> str:
        """Return the address of Redis for this host, with one of its two logins."""

    @abstractmethod
    def execute(self, service: str, *command: str) -> str:
        """Run a command beside a part that runs; return what it printed."""

    @abstractmethod
    def admin_password(self) -> str:
        """Return the password of the first account."""

    @abstractmethod
    def last_words(self) -> dict[str, str]:
        """Return what helps to explain a failure: what the parts look like and have written last, under headings."""

    def manage(self, *arguments: str, service: str = "web") -> str:
        """Run one of Django's commands in a container."""
        return self.execute(service, "manage", *arguments)

    @cached_property
    def db(self) -> Observer:  # type: ignore[override]
        """Looks at the database; the table of effects that chaos jobs write to exists from then on."""
        observer = Observer(self.database_url())
        observer.fetch(
            """CREATE TABLE IF NOT EXISTS effect (id bigserial PRIMARY KEY, job_id uuid NOT NULL,
                 attempt int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"""
        )
        return observer

    def api(self, role: str = "operator") -> ApiClient:
        """Make a token and return a client of the API with it."""
        token = json.loads(self.manage("jobs", "token", "tests", "--role", role, "--json"))["token"]
        return ApiClient(self.web_url, token)

    @cached_property
    def submitter(self) -> Submitter:
        """A program on this host that submits through the servers' published ports, as Django code would."""
        env = environment(
            DATABASE_URL=self.database_url(),
            REDIS_URL=self.redis_url(),
            JOB_PACKAGES="tests.support.chaos_jobs",
            EMAIL_URL="memorymail://",
            LEASE_SECONDS=self.settings.get("LEASE_SECONDS", "10"),
        )
        logs = ROOT / ".esteira"
        logs.mkdir(exist_ok=True)
        return Submitter(env, logs)

    def submit(self, name: str, many: int | Sequence[dict[str, Any]], **options: Any) -> list[str]:
        """Submit chaos jobs from this host."""
        _ = self.db
        return self.submitter.submit_all(name, many, **options)

    def _forget(self) -> None:
        """Let go of what knows the servers' ports: a new container has others."""
        if db := self.__dict__.pop("db", None):
            db.close()
        if submitter := self.__dict__.pop("submitter", None):
            submitter.stop()
