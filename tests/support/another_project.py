"""Another project: a folder and an empty environment of its own, outside the clone, with the wheel that is built here.

Nothing of the clone can be imported there: `PYTHONPATH` is not set, and the folder is a temporary one. The versions are
those of uv.lock, so that an environment is made of what uv has in its cache.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.forks import ROOT
from tests.support.servers import SuiteServers

#: What a reader's shell has, too; all else of this process's environment is the suite's.
OF_THE_SHELL = ("HOME", "LANG", "PATH", "PIP_CERT", "PIP_FIND_LINKS", "UV_CACHE_DIR")


def uv() -> str:
    """Return the path of uv, or leave the test out."""
    found = shutil.which("uv", path=f"{ROOT / '.venv/uv/bin'}:{ROOT / '.venv/bin'}") or shutil.which("uv")
    if found is None:
        pytest.skip("uv is not here; `make check` gets it")
    return found


def build(folder: Path) -> Path:
    """Build the wheel and the archive of the sources of this checkout; return the wheel."""
    _run(
        [uv(), "build", "--offline", "--quiet", "--python", sys.executable, "--out-dir", str(folder)],
        cwd=ROOT,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


class AnotherProject:
    """One such project; lines for a shell run in its folder, with its environment activated."""

    def __init__(self, folder: Path, servers: SuiteServers, **variables: str) -> None:
        self.folder, self._servers = folder, servers
        self.venv = folder.parent / f"{folder.name}-venv"
        self.database = f"other_{os.getpid()}_{folder.name}"
        self.temporary = folder.parent / f"{folder.name}-tmp"
        self._variables = variables
        self._locked = folder.parent / "locked.txt"

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in OF_THE_SHELL if name in os.environ}
        path = f"{self.venv / 'bin'}:{Path(uv()).parent}:{inherited['PATH']}"
        return {
            **inherited,
            "PATH": path,
            "VIRTUAL_ENV": str(self.venv),
            "TMPDIR": str(self.temporary),
            "UV_CONSTRAINT": str(self._locked),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
            **self._variables,
        }

    def create(self) -> None:
        """Make the empty environment and an empty database."""
        self.folder.mkdir(exist_ok=True)
        self.temporary.mkdir()
        frozen = [
            "export",
            "--frozen",
            "--all-groups",
            "--no-hashes",
            "--quiet",
            "--output-file",
            str(self._locked),
        ]
        _run([uv(), *frozen], cwd=ROOT)
        _run([uv(), "venv", "--quiet", "--python", sys.executable, str(self.venv)], cwd=self.folder.parent)
        with psycopg.connect(self._servers.postgres.url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {self.database}")

    def remove(self) -> None:
        with psycopg.connect(self._servers.postgres.url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        shutil.rmtree(self.venv, ignore_errors=True)

    @property
    def database_parts(self) -> Mapping[str, str]:
        parts = urlsplit(self._servers.postgres.url)
        return {
            "NAME": self.database,
            "USER": str(parts.username),
            "PASSWORD": str(parts.password),
            "HOST": str(parts.hostname),
            "PORT": str(parts.port),
        }

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self._servers.postgres.url, dbname=self.database) as db:
            return list(db.execute(sql.encode()).fetchall())

    def install(self, *what: str) -> None:
        _run([uv(), "pip", "install", "--quiet", *what], cwd=self.folder, env=self.env)

    def type(self, lines: str) -> str:
        """Run lines for a shell, which stops at the first that fails; return what they print."""
        return _run(["bash", "-euo", "pipefail", "-c", lines], cwd=self.folder, env=self.env)

    @contextmanager
    def running(self, line: str, name: str) -> Iterator[Path]:
        """Run a line in the background during the block; yields the file that has what it prints."""
        log = self.folder.parent / f"{self.folder.name}-{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.env, stdout=output, stderr=output
            )
        try:
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def _run(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout
