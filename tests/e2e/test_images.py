"""The content of the four images beyond their base: all that is needed to run, nothing more, and no secret."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.test_images import ROLES
from tests.repo.test_style import SECRETS
from tests.repo.tools import has_wheel, judge
from tests.repo.tree import text
from tests.support.compose_stack import image as built

BASE = os.environ.get("PYTHON_IMAGE", "python:3.13-slim-trixie")
PROJECT = tomllib.loads(text("pyproject.toml"))
MOST_BYTES = 175 * 1024**2
COMMANDS = {
    "web": ["gunicorn", "project.asgi"],
    "worker": ["celery", "--quiet", "-A", "project", "worker"],
    "beat": ["celery", "--quiet", "-A", "project", "beat"],
    "flower": ["celery", "--quiet", "-A", "project", "flower"],
}
DISTRIBUTION = re.compile(r"opt/venv/lib/python3\.\d+/site-packages/([\w.]+)-[^/]+\.dist-info/METADATA")
CACHES = re.compile(r"(^|/)(var/lib/apt/lists/.+|var/cache/apt/.+|\.cache/.+|cache/(uv|pip)/.+|uv\.lock)$")
BUILDERS = re.compile(r"(^|/)bin/(uv|uvx|pip3?|gcc|g\+\+|cc|c\+\+|ld|make|git|curl|wget|pytest|ruff|mypy)$")
#: uv's own lock, empty; and a key for Tornado's tests, which everybody who has Tornado has.
LEFT_BY_OTHERS = ("opt/venv/.lock", "site-packages/tornado/test/test.key")
PRIVATE = re.compile(r"(^|/)(\.env|\.git|\.netrc|\.pgpass|id_\w+|[\w.-]+\.(key|p12|pfx))$|^keys/.+/.+")


@dataclass
class Image:
    """One image: its configuration, and the files of its own layers, the later ones over the earlier."""

    role: str
    config: dict[str, Any]
    files: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)  # the first bytes of compiled modules
    texts: dict[str, str] = field(default_factory=dict)  # what is ours

    @property
    def distributions(self) -> set[str]:
        return {canonicalize_name(match[1]) for path in self.files if (match := DISTRIBUTION.fullmatch(path))}


@pytest.fixture(scope="module")
def archive(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("images") / "images.tar"
    names = [built(role) for role in ROLES]
    subprocess.run(["docker", "save", "-o", str(file), *names], check=True, timeout=300)
    yield file
    file.unlink()


@pytest.fixture(scope="module")
def contents(archive: Path) -> dict[str, Image]:
    below = inspected(BASE)["RootFS"]["Layers"]
    found = {}
    with tarfile.open(archive) as outer:
        for saved in json.load(outer.extractfile("manifest.json")):  # type: ignore[arg-type]
            config = json.load(outer.extractfile(saved["Config"]))  # type: ignore[arg-type]
            assert config["rootfs"]["diff_ids"][: len(below)] == below, f"it is not built on {BASE}"
            (role,) = [each for each in ROLES if built(each) in saved["RepoTags"]]
            found[role] = Image(role, config)
            for layer in saved["Layers"][len(below) :]:
                read(outer.extractfile(layer), found[role])
    assert set(found) == set(ROLES)
    return found


@pytest.fixture(params=ROLES)
def image(request: pytest.FixtureRequest, contents: dict[str, Image]) -> Image:
    return contents[request.param]


def inspected(name: str) -> dict[str, Any]:
    said = subprocess.run(
        ["docker", "image", "inspect", name], capture_output=True, text=True, check=True
    ).stdout
    return dict(json.loads(said)[0])


def read(layer: Any, image: Image) -> None:
    with tarfile.open(fileobj=layer) as inner:
        for member in inner:
            image.files[member.name] = member
            if member.isfile() and member.name.endswith(".pyc"):
                image.heads[member.name] = inner.extractfile(member).read(16)  # type: ignore[union-attr]
            elif member.isfile() and not member.name.startswith("opt/venv/"):
                image.texts[member.name] = inner.extractfile(member).read().decode(errors="replace")  # type: ignore[union-attr]


def python(role: str, code: str) -> str:
    """Run Python in a container that may write to /tmp only, knows nobody and has no rights."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL",
         "--security-opt", "no-new-privileges", "-e", "SECRET_KEY=check", "-e", "DATABASE_URL=postgresql://nobody@127.0.0.1:1/none",
         built(role), "python", "-c", code],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- What it says of itself --------------------------------------------------------------------------------------------


def test_it_runs_as_a_numbered_user_without_a_shell(image: Image) -> None:
    config = image.config["config"]

    assert config["User"] == "10001:10001"
    assert config["Cmd"][: len(COMMANDS[image.role])] == COMMANDS[image.role]
    assert not config.get("Entrypoint")
    assert config["Healthcheck"]["Test"][0] == "CMD", "not CMD-SHELL"
    assert not config.get("Volumes")


def test_its_labels_say_what_it_is(image: Image) -> None:
    labels = image.config["config"]["Labels"]

    for name in ("title", "description", "licenses", "version", "revision"):
        assert labels[f"org.opencontainers.image.{name}"], name
    assert labels["org.opencontainers.image.licenses"] == PROJECT["project"]["license"]


# --- What it holds -----------------------------------------------------------------------------------------------------


def test_it_holds_what_the_project_needs_and_flower_only_where_it_runs(image: Image) -> None:
    needed = {canonicalize_name(Requirement(each).name) for each in PROJECT["project"]["dependencies"]}

    assert needed <= image.distributions
    assert ("flower" in image.distributions) == (image.role == "flower")


def test_it_holds_nothing_that_builds_or_tests(image: Image) -> None:
    groups = PROJECT["dependency-groups"]
    others = {canonicalize_name(Requirement(each).name) for each in [*groups["dev"], *groups["local"]]}

    assert not others & image.distributions
    assert not [path for path in image.files if BUILDERS.search(path)]
    assert not [path for path in image.files if path.startswith(("app/tests", "app/bench", "app/docs"))]


def test_it_holds_no_cache(image: Image) -> None:
    assert not [path for path, entry in image.files.items() if entry.isfile() and CACHES.search(path)]


def test_its_bytecode_is_that_of_its_sources(image: Image) -> None:
    """Else each start compiles all of it anew: a read-only root keeps no bytecode."""
    stale, checked = [], 0
    for path, entry in image.files.items():
        if not path.endswith(".py") or not path.startswith(("app/", "opt/venv/lib/")) or not entry.isfile():
            continue
        folder, _, name = path.rpartition("/")
        compiled = [
            head
            for pyc, head in image.heads.items()
            if pyc.startswith(f"{folder}/__pycache__/{name[:-3]}.cpython-")
        ]
        checked += 1
        if not compiled or struct.unpack("<4xIII", compiled[0]) != (0, int(entry.mtime), entry.size):
            stale.append(path)

    assert checked > 1000
    assert not [path for path in stale if path.startswith("app/")]
    assert len(stale) <= checked / 100, stale[:20]


def test_nobody_may_change_what_it_runs(image: Image) -> None:
    """What is written goes to volumes and to memory."""
    runs = {
        path: e
        for path, e in image.files.items()
        if path.startswith(("app/", "opt/", "services/", "usr/")) and not e.issym()
        if not path.endswith(LEFT_BY_OTHERS)
    }

    assert not [path for path, entry in runs.items() if entry.uid or entry.mode & 0o022]
    assert not [path for path, entry in image.files.items() if entry.isfile() and entry.mode & 0o6000]


def test_it_is_no_larger_than_it_was(image: Image) -> None:
    assert sum(entry.size for entry in image.files.values()) < MOST_BYTES


# --- What it does not tell -----------------------------------------------------------------------------------------------


def test_no_secret_is_in_its_files_its_history_or_its_environment(image: Image) -> None:
    history = [step.get("created_by", "") for step in image.config["history"]]
    environment = image.config["config"]["Env"]

    assert not [path for path, entry in image.files.items() if entry.isfile() and _is_private(path)]
    assert not [
        match[0]
        for said in [*history, *environment, *image.texts.values()]
        for match in SECRETS.finditer(said)
    ]
    assert not [each for each in environment if re.match(r"[A-Z_]*(PASSWORD|SECRET|TOKEN|AUTH|_KEY)", each)]


def _is_private(path: str) -> bool:
    return bool(PRIVATE.search(path)) and not path.endswith(LEFT_BY_OTHERS)


def test_trivy_finds_no_secret_in_what_is_ours(image: Image, tmp_path: Path) -> None:
    if not has_wheel("trivy"):
        pytest.skip("trivy has no wheel for this machine")
    for path, content in {**image.texts, "configuration.json": json.dumps(image.config)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)

    ended, said = judge(
        "trivy", "fs", "--scanners=secret", "--skip-db-update", "--skip-version-check", "--exit-code=1", "--quiet", str(tmp_path)
    )  # fmt: skip

    assert ended == 0, said


# --- What it does --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_it_works_without_rights_and_with_nothing_to_write_to(role: str) -> None:
    code = "import os, django; django.setup(); import project.celery, project.asgi; print(os.getuid(), os.getgroups())"

    assert python(role, code) == "10001 [10001]"


@pytest.mark.parametrize("role", ROLES)
def test_no_tool_is_left_that_builds(role: str) -> None:
    """In the image below it neither."""
    code = "import shutil; print([t for t in 'uv gcc cc make git curl wget'.split() if shutil.which(t)])"

    assert python(role, code) == "[]"
