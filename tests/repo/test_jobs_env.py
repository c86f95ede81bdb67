"""What own jobs bring: a line of jobs.env says the same to `make run`, compose and Kubernetes, and no setting of ours."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from project.jobs_env import load_jobs_env
from tests.repo.compose_files import rendered
from tests.repo.test_env_example import read_by_settings
from tests.repo.tools import judge
from tests.repo.tree import ROOT, files, text

LINES = {
    "SHOP_API_KEY": "k-1234",
    "WORDS": "two words",
    "SIGNS": "a=b==&c:d/e@f?g#h,i;j*k!l%20m",
    "BACKSLASH": r"C:\new\table",
    "LETTERS": "ação",
    "EMPTY": "",
}
WRITTEN = "# of the shop\n\n" + "".join(f"{name}={value}\n" for name, value in LINES.items())
READERS = {"migrate", "web", "worker", "beat"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "jobs.env"
    file.write_text(WRITTEN)
    return file


def test_make_run_reads_what_is_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LINES:
        monkeypatch.delenv(name, raising=False)

    assert load_jobs_env(file, []) == []
    read = {name: os.environ.pop(name) for name in LINES}

    assert read == LINES


def test_compose_hands_the_same_to_what_loads_jobs_and_to_nothing_else() -> None:
    services = rendered(jobs_env=WRITTEN)["services"]

    for name, part in services.items():
        found = {key: value for key, value in part.get("environment", {}).items() if key in LINES}
        assert found == (LINES if name in READERS else {}), name


def test_kubectl_puts_the_same_into_a_secret(file: Path) -> None:
    ended, said = judge(
        "kubectl", "create", "secret", "generic", "jobs", f"--from-env-file={file}", "--dry-run=client", "-o", "json"
    )  # fmt: skip

    assert ended == 0, said
    data = json.loads(said)["data"]
    assert {name: base64.b64decode(value).decode() for name, value in data.items()} == LINES


def test_under_compose_no_setting_is_taken_from_jobs_env() -> None:
    """Neither a setting's variable, nor the file that may be named in its place."""
    names = {name for name, _ in read_by_settings()} - {"STATIC_ROOT"}
    own = "".join(f"{name}=of-a-job\n" for name in sorted(names))

    with_, without = rendered(jobs_env=own)["services"], rendered()["services"]

    for name in READERS:
        told = without[name]["environment"]
        now = with_[name]["environment"]
        assert {key: now[key] for key in told} == told, name
        by_file = {key.removesuffix("_FILE") for key in told if key.endswith("_FILE")}
        elsewhere = set() if name == "web" else set(without["web"]["environment"])
        elsewhere |= set() if name == "worker" else set(without["worker"]["environment"])
        assert {key for key, value in now.items() if value == "of-a-job"} <= by_file | elsewhere, name


def test_under_make_run_no_setting_is_taken_from_jobs_env(file: Path) -> None:
    with file.open("a") as more:
        more.write("LEASE_SECONDS=3\nSECRET_KEY_FILE=/nowhere\nDEBUG=True\n")
    code = (
        "import os, sys, pathlib, environ\n"
        "from project import jobs_env\n"
        "read = jobs_env.load_jobs_env\n"
        f"jobs_env.load_jobs_env = lambda path, ours: read(pathlib.Path({str(file)!r}), ours)\n"
        "from project import settings\n"
        "print(settings.ESTEIRA_LEASE_SECONDS, settings.DEBUG, settings.NOT_FOR_JOBS)\n"
        "print(os.environ['SHOP_API_KEY'], 'LEASE_SECONDS' in os.environ)\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "check",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout.splitlines() == [
        "10.0 False ['DEBUG', 'LEASE_SECONDS', 'SECRET_KEY_FILE']",
        "k-1234 False",
    ], done.stderr


# --- What is shipped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jobs/requirements.txt", "jobs/apt.txt", "jobs.env.example"])
def test_a_file_for_own_jobs_is_shipped_and_changes_nothing(name: str) -> None:
    lines = text(name).splitlines()

    assert Path(name) in files()
    assert all(line.startswith("#") for line in lines)
    assert len(lines) >= 3, "it explains itself"


def test_jobs_env_is_neither_committed_nor_sent_to_the_builder() -> None:
    ignored = text(".gitignore").splitlines()
    sent = [line for line in text(".dockerignore").splitlines() if line.startswith("!")]

    assert "/jobs.env" in ignored
    assert not [line for line in sent if "env" in line]
