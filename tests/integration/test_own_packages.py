"""jobs/requirements.txt and `make`: what it names is in .venv, what it no longer names is not, and nothing of ours moves."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.forks import ROOT

pytestmark = pytest.mark.slow

SHIPPED = (ROOT / "jobs" / "requirements.txt").read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make` needs of a checkout, with an environment of its own; uv is the one that is here."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "jobs").mkdir()
    for name in ("Makefile", "pyproject.toml", "uv.lock", "jobs/requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    uv = shutil.which("uv", path=f"{ROOT / '.venv/uv/bin'}:{ROOT / '.venv/bin'}")
    assert uv, "`make` puts it there"
    (folder / ".venv" / "uv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "uv" / "bin" / "uv").symlink_to(uv)
    return folder


@pytest.fixture
def make(clone: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def make(requirements: str = "", pyproject: str = "") -> subprocess.CompletedProcess[str]:
        (clone / "jobs" / "requirements.txt").write_text(SHIPPED + requirements)
        (clone / "pyproject.toml").write_text(pyproject or (ROOT / "pyproject.toml").read_text())
        return subprocess.run(
            ["make", "-C", str(clone), ".venv/.synced"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return make


def wheel(folder: Path, name: str, requires: str = "") -> Path:
    """Make a package with one module."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as inside:
        inside.writestr(f"{name}.py", "WORD = 'here'\n")
        inside.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        inside.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        inside.writestr(f"{info}/RECORD", "")
    return file


def word_of(clone: Path, module: str) -> str:
    code = f"import {module}; print({module}.WORD)"
    done = subprocess.run(
        [clone / ".venv/bin/python", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip()


def test_a_line_installs_and_its_removal_removes(
    clone: Path, make: Callable[..., object], tmp_path: Path
) -> None:
    shop = wheel(tmp_path, "shop_client")

    make(f"{shop}\n")
    assert word_of(clone, "shop_client") == "here"

    make()
    assert word_of(clone, "shop_client") == ""


def test_a_package_that_wants_other_versions_of_ours_is_refused(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = make(f"{wheel(tmp_path, 'shop_future', 'Requires-Dist: django>=99')}\n")

    assert done.returncode != 0
    assert "django>=99" in done.stderr
    assert "jobs/requirements.txt cannot be installed beside the versions of uv.lock." in done.stderr
    assert make(f"{wheel(tmp_path, 'shop_future', 'Requires-Dist: django>=99')}\n").returncode != 0, (
        "the second time too"
    )


def test_a_changed_pyproject_without_its_lock_is_refused(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    before = (ROOT / "pyproject.toml").read_text()

    done = make(pyproject=before.replace('"tzdata>=2025.2",', '"tzdata>=2025.1",'))

    assert done.returncode != 0
    assert "run `make lock` after a change of pyproject.toml" in done.stderr
    assert make().returncode == 0
