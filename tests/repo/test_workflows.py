"""What runs on a public runner is what runs here, with no more rights than it needs and nothing that others can move."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.test_images import ROLES
from tests.repo.tools import has_wheel, path_of, run
from tests.repo.tree import files, text

WORKFLOWS = [path for path in files() if path.parts[:2] == (".github", "workflows")]
CI, RELEASE = Path(".github/workflows/ci.yml"), Path(".github/workflows/release.yml")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")


def jobs(workflow: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(text(workflow))["jobs"])


def steps(job: dict[str, Any], action: str) -> list[dict[str, Any]]:
    """Return the inputs of each step that uses an action."""
    return [each["with"] for each in job["steps"] if each.get("uses", "").startswith(f"{action}@")]


def test_github_would_understand_them() -> None:
    shellcheck = str(path_of("shellcheck")) if has_wheel("shellcheck") else ""
    run("actionlint", "-shellcheck", shellcheck, *map(str, WORKFLOWS))
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")


def test_nobody_can_misuse_them() -> None:
    run("zizmor", "--offline", "--quiet", ".github")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_what_others_wrote_is_pinned_to_a_commit_and_says_its_version(workflow: Path) -> None:
    used = re.findall(r"\buses: (?!\$/)(.+)$", text(workflow), re.MULTILINE)
    assert used

    assert not [each for each in used if not PINNED.fullmatch(each)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_every_job_asks_for_its_few_rights_and_ends(workflow: Path) -> None:
    assert yaml.safe_load(text(workflow))["permissions"] == {}
    for name, job in jobs(workflow).items():
        assert set(job["permissions"].values()) <= {"read", "write"}, name
        assert "uses" in job or job["timeout-minutes"] <= 90, name


def test_only_the_images_are_written() -> None:
    written = {
        (name, right)
        for workflow in WORKFLOWS
        for name, job in jobs(workflow).items()
        for right, how in job["permissions"].items()
        if how == "write"
    }

    assert written == {("images", "packages")}


def test_the_runner_does_what_ci_does_here_on_the_oldest_and_the_newest_python() -> None:
    job = jobs(CI)["check"]
    low, high = re.findall(r"3\.(\d+)", tomllib.loads(text("pyproject.toml"))["project"]["requires-python"])

    assert job["steps"][-1]["run"] == ".ci/run"
    assert job["strategy"]["matrix"]["python"] == [f"3.{low}", f"3.{int(high) - 1}"]
    assert steps(job, "actions/setup-python") == [{"python-version": "${{ matrix.python }}"}]


def test_a_release_is_tested_first_and_builds_every_image_for_both_architectures() -> None:
    found = jobs(RELEASE)
    (build,) = steps(found["images"], "docker/build-push-action")

    assert found["images"]["needs"] == "check"
    assert found["check"]["uses"] == f"$/{CI}"
    assert found["images"]["strategy"]["matrix"]["role"] == ROLES
    assert (build["file"], build["target"]) == ("services/Dockerfile", "${{ matrix.role }}")
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["push"], build["sbom"], build["provenance"]) == (True, True, "mode=max")
    assert re.findall(r"^(\w+)=", build["build-args"], re.MULTILINE) == ["VERSION", "REVISION"]


def test_a_release_has_the_version_of_the_project() -> None:
    """The workflow's own line, on the file that it reads there."""
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]

    (pattern,) = re.findall(r"sed -n 's/(.+?)/\\1/p' pyproject\.toml", text(RELEASE))
    in_python = pattern.replace(r"\(", "(").replace(r"\)", ")")
    assert re.findall(in_python, text("pyproject.toml"), re.MULTILINE) == [version]
