"""The files with which a clone starts: README, the locked dependencies, the licence, the version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

import esteira
from tests.repo.tree import ROOT, text

PROJECT = tomllib.loads(text("pyproject.toml"))
LOCK = tomllib.loads(text("uv.lock"))


def targets() -> dict[str, str]:
    """Makefile targets with what their line says they do."""
    return dict(re.findall(r"^([a-z0-9-]+):.*?## (.+)$", text("Makefile"), re.MULTILINE))


def test_make_alone_prints_every_target_with_a_sentence() -> None:
    told = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout

    phony = re.findall(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)[0].split()
    assert set(phony) - {"help"} == set(targets())
    for name, sentence in targets().items():
        assert re.search(rf"^  make {name} +{re.escape(sentence)}$", told, re.MULTILINE), name


def test_the_lock_holds_what_the_project_asks_for() -> None:
    (locked,) = [p for p in LOCK["package"] if p["name"] == PROJECT["project"]["name"]]
    asked = {"": PROJECT["project"]["dependencies"], **PROJECT["dependency-groups"]}
    kept = {"": locked["metadata"]["requires-dist"], **locked["metadata"]["requires-dev"]}

    for group, requirements in asked.items():
        wanted = {(r.name, str(r.specifier), frozenset(r.extras)) for r in map(Requirement, requirements)}
        found = {
            (k["name"], str(Requirement(f"x{k['specifier']}").specifier), frozenset(k.get("extras", ())))
            for k in kept[group]
        }
        assert found == wanted, f"{group or 'dependencies'}: run `make lock`"


def test_uv_agrees_that_the_lock_is_current() -> None:
    uv = shutil.which("uv", path=f"{ROOT / '.venv/uv/bin'}:{ROOT / '.venv/bin'}") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not here; `make check` gets it")

    check = [uv, "lock", "--check", "--offline", "--no-cache", "--python", sys.executable]
    said = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)

    assert said.returncode == 0, f"{said.stderr}\nrun `make lock`"


def test_each_import_has_its_dependency() -> None:
    """A module of the local stack must not live on a tool of the developers."""
    groups = PROJECT["dependency-groups"]
    run = {Requirement(r).name for r in [*PROJECT["project"]["dependencies"], *groups["local"]]}
    imported = {
        name
        for path in (ROOT / "project").rglob("*.py")
        for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
    }

    names = {"psutil": "psutil", "redis": "redis", "watchfiles": "watchfiles", "environ": "django-environ"}
    missing = [package for module, package in names.items() if module in imported and package not in run]
    assert not missing


def test_the_licence_is_mit_everywhere() -> None:
    assert PROJECT["project"]["license"] == "MIT"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert text("LICENSE").startswith("MIT License\n\nCopyright (c) ")
    assert "[MIT](LICENSE)" in text("README.md")


def test_the_changelog_and_the_code_know_this_version() -> None:
    version = PROJECT["project"]["version"]

    assert esteira.__version__ == version

    assert re.search(rf"^## \[?{re.escape(version)}\]?", text("CHANGELOG.md"), re.MULTILINE)
