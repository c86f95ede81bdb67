"""A stack of containers to break: kill, pause, cut off, and see when what was broken serves again.

Processes in containers are killed by their ids on this host, because Docker restarts what dies so, as after any crash,
and leaves alone what `docker kill` ended. That and the cutting of networks need root, or a `sudo` that asks nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import redis as redis_client

from project.local.embedded import free_port
from project.local.embedded_server import is_alive
from tests.support.api_client import ApiClient
from tests.support.compose_stack import PARTS, ComposeStack
from tests.support.under_load import EMPTIED, UnderLoad
from tests.support.waiting import until

MEMORY = "256mb"
CUT = "esteira_cut"


class ComposeStackUnderLoad(UnderLoad, ComposeStack):
    """Two workers and one of each other part."""

    def __init__(self, project: str, **settings: str) -> None:
        ports = {name: str(free_port()) for name in ("POSTGRES_PORT", "REDIS_PORT")}
        super().__init__(project, **{"LEASE_SECONDS": "3", "CONCURRENCY": "2", **ports, **settings})
        self.killed: dict[str, int] = {}
        self.redis_urls: dict[str, str] = {}

    def start(self, *services: str) -> None:
        """Start what does not run, without touching what does, and return once it is healthy."""
        wanted = services or ("--scale=worker=2", *PARTS)
        self.compose("up", "-d", "--no-recreate", "--wait", *wanted)

    def renew(self) -> None:
        """Mend whatever a test has left broken, and empty both servers."""
        mends = {"paused": "unpause", "exited": "start"}
        there = self.parts()
        for container, (service, state) in there.items():
            if state in mends and service in PARTS:
                self.docker(mends[state], container)
        if sorted(service for service, _ in there.values() if service in PARTS) != sorted([*PARTS, "worker"]):
            self.start()
        for service in PARTS:
            self.wait_back(service)
        with self.redis("admin") as admin:
            admin.config_set("maxmemory", MEMORY)
            admin.flushall()
        self.db.fetch("SET lock_timeout = '20s'")
        self.db.fetch(f"TRUNCATE {EMPTIED} RESTART IDENTITY CASCADE")
        self.killed.clear()

    def parts(self) -> dict[str, tuple[str, str]]:
        """Return each container's service and state."""
        mine = f"label=com.docker.compose.project={self.project}"
        shown = '{{.ID}} {{.Label "com.docker.compose.service"}} {{.State}}'
        told = self.docker("ps", "-a", "--no-trunc", "--filter", mine, "--format", shown).splitlines()
        return {one: (service, state) for one, service, state in map(str.split, told)}

    def redis(self, user: str = "esteira") -> redis_client.Redis:
        if user not in self.redis_urls:
            self.redis_urls[user] = self.redis_url(user)
        return redis_client.Redis.from_url(self.redis_urls[user], socket_timeout=5)

    # --- Break ---------------------------------------------------------------------------------------------------------

    def kill(self, *containers: str) -> None:
        """SIGKILL all that runs in containers, as a crash would end it; Docker starts them again."""
        pids = {container: self.pid(container) for container in containers}
        self.killed |= pids
        kill(*[pid for pid in pids.values() if pid])  # 0: it is down already

    def pool(self, worker: str) -> list[int]:
        """Return the ids, on this host, of a worker's pool processes; none if it is down."""
        pid = self.pid(worker)
        return [child.pid for child in psutil.Process(pid).children()] if pid else []

    @contextmanager
    def paused(self, *containers: str) -> Iterator[None]:
        """`docker pause`, and its end. Docker waits for ever for a health check that was just starting: rare, not never."""
        self.docker("pause", *containers)
        try:
            yield
        finally:
            frozen = [one for one in containers if self.inspect(one)["State"]["Paused"]]
            if frozen:  # one that was killed meanwhile is not
                self.docker("unpause", *frozen)

    @contextmanager
    def stopped(self, container: str) -> Iterator[None]:
        """SIGSTOP all its processes, and let them go on: for those who do it too often for Docker (see `paused`)."""
        main = psutil.Process(self.pid(container))
        processes = [main, *main.children(recursive=True)]
        _signal("STOP", processes)
        try:
            yield
        finally:
            _signal("CONT", processes)

    @contextmanager
    def cut(self, container: str, service: str) -> Iterator[None]:
        """Let no packet pass between a container and a service, either way; nobody is told."""
        peers = ", ".join(self.addresses(service))
        rules = f"""table inet {CUT} {{
          chain out {{ type filter hook output priority 0; ip daddr {{ {peers} }} drop; }}
          chain in {{ type filter hook input priority 0; ip saddr {{ {peers} }} drop; }}
        }}"""
        pid = str(self.pid(container))
        as_root("nsenter", "-t", pid, "-n", "nft", rules)
        try:
            yield
        finally:
            if psutil.pid_exists(int(pid)):  # its network ended with it
                as_root("nsenter", "-t", pid, "-n", "nft", f"delete table inet {CUT}")

    def addresses(self, service: str) -> list[str]:
        found = [self.inspect(one)["NetworkSettings"]["Networks"].values() for one in self.ids(service)]
        return sorted({str(one["IPAddress"]) for networks in found for one in networks if one["IPAddress"]})

    # --- Come back -----------------------------------------------------------------------------------------------------

    def wait_back(self, service: str, *, timeout: float = 90) -> None:
        """Wait until a part serves again; a container that was killed, in a new life."""
        until(lambda: self.serves(service), f"{service} serves", timeout=timeout, every=0.1)

    def serves(self, service: str) -> bool:
        """Whether what runs of a service answers, and nothing of it is left from before its end."""
        mine = [one for one, (name, state) in self.parts().items() if (name, state) == (service, "running")]
        states = {one: self.inspect(one)["State"] for one in mine}
        new = all(state["Pid"] not in (0, self.killed.get(one)) for one, state in states.items())
        return bool(states) and new and self._answers(service, states)

    def _answers(self, service: str, states: dict[str, dict[str, Any]]) -> bool:
        asked: dict[str, Callable[[], bool]] = {
            "postgres": lambda: self.db.one("SELECT true"),
            "redis": self._redis_answers,
            "web": lambda: ApiClient(self.web_url, "").request("/readyz").status == 200,
            "flower": lambda: ApiClient(self.flower_url, "").request("/").status == 401,
            "beat": lambda: all(self._has_turned(one) for one in states),
            "worker": lambda: all(self._is_ready(one, state["StartedAt"]) for one, state in states.items()),
        }
        return asked[service]()

    def _redis_answers(self) -> bool:
        try:
            with self.redis() as client:
                return bool(client.ping())
        except (redis_client.ConnectionError, redis_client.TimeoutError):
            return False

    def _has_turned(self, beat: str) -> bool:
        """Whether its loop has touched its file, which a new life does not find."""
        told = subprocess.run(["docker", "exec", beat, "test", "-e", "/run/esteira/beat.alive"], check=False)
        return told.returncode == 0

    def _is_ready(self, worker: str, since: str) -> bool:
        return " ready." in self.said(worker, since)

    def said(self, container: str, since: str = "0") -> str:
        """Return what a container has written, since it was started if that is given."""
        told = subprocess.run(
            ["docker", "logs", "--since", since, container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return told.stdout


def kill(*pids: int) -> None:
    """SIGKILL processes at once, and wait until they are dead: a worker that waits for Redis buries its own later."""
    assert all(pid > 1 for pid in pids), pids
    victims = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            victims.append(psutil.Process(pid))
    _signal("KILL", victims)
    until(lambda: not any(map(is_alive, victims)), f"{pids} are dead")


def _signal(name: str, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            try:
                process.send_signal(signal.Signals[f"SIG{name}"])
            except psutil.AccessDenied:
                as_root("kill", "-s", name, str(process.pid))


def as_root(*command: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    done = subprocess.run([*sudo, *command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join([*sudo, *command])}: {done.stderr}"
