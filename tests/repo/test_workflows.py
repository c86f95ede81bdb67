"""What runs on a public runner is what runs here, with no more rights than it needs and nothing that others can move."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.test_images import ROLES
from tests.repo.tools import has_wheel, path_of, run
from tests.repo.tree import ROOT, files, text

WORKFLOWS = [path for path in files() if path.parts[:2] == (".github", "workflows")]
CI, RELEASE, SCAN = (Path(f".github/workflows/{name}.yml") for name in ("ci", "release", "scan"))
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


def test_only_images_their_signatures_and_their_tags_are_written() -> None:
    written = {
        (name, right)
        for workflow in WORKFLOWS
        for name, job in jobs(workflow).items()
        for right, how in job["permissions"].items()
        if how == "write"
    }

    assert written == {("images", "packages"), ("images", "id-token"), ("tags", "packages")}


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
    assert build["tags"] == "${{ steps.name.outputs.image }}:${{ steps.name.outputs.version }}", (
        "one that never moves"
    )


def test_tags_move_after_all_four_are_there_and_signed_by_their_digests() -> None:
    found = jobs(RELEASE)
    *_, sign = found["images"]["steps"]
    *_, move = found["tags"]["steps"]

    assert sign["env"] == {"IMAGE": "${{ steps.name.outputs.image }}@${{ steps.build.outputs.digest }}"}
    assert found["tags"]["needs"] == "images"
    assert move["run"].index("cosign verify") < move["run"].index("imagetools create")
    assert re.findall(r"for role in (.+); do", move["run"]) == [" ".join(ROLES)] * 2


def test_the_documents_verify_a_signature_as_the_release_does() -> None:
    """By the words of the command; the identity of the release is its workflow at its tag."""
    (documented,) = re.findall(r"^cosign verify .+?[^\\]$", text("docs/images.md"), re.MULTILINE | re.DOTALL)
    issuer = "--certificate-oidc-issuer https://token.actions.githubusercontent.com"
    *_, move = jobs(RELEASE)["tags"]["steps"]

    assert issuer in documented and issuer in move["run"]
    (identity,) = re.findall(r"--certificate-identity (\S+)", documented)
    assert re.fullmatch(rf"https://github\.com/\w+/\w+/{RELEASE}@refs/tags/v\d+\.\d+\.\d+", identity)


@pytest.mark.parametrize(
    ("version", "others", "moving"),
    [
        ("1.2.3", [], ["1.2", "1", "latest"]),
        ("1.2.3", ["1.2.2", "1.1.9", "0.9.0"], ["1.2", "1", "latest"]),
        ("1.2.3", ["1.2.10"], []),
        ("1.2.3", ["1.3.0"], ["1.2"]),
        ("1.2.3", ["2.0.0"], ["1.2", "1"]),
        ("1.2.3", ["1.10.0", "2.0.0"], ["1.2"]),
        ("1.2.3", ["1.3.0rc1", "2.0.0b2", "1.2.4-rc.1"], ["1.2", "1", "latest"]),
        ("1.3.0rc1", ["1.2.3"], []),
        ("0.1.0", [], ["0.1", "latest"]),
        ("0.2.1", ["0.3.0"], ["0.2"]),
    ],
)
def test_a_release_moves_only_the_tags_of_which_it_is_the_newest(
    version: str, others: list[str], moving: list[str]
) -> None:
    """With all tags of the repository, as GitHub lists them, its own and others' among them."""
    listed = [f"refs/tags/v{each}" for each in [*others, version]] + ["refs/tags/vendor", "refs/tags/v1"]

    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "image_tags.py", version],
        input="\n".join(listed),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == moving


def test_the_scan_looks_at_every_image_of_the_newest_release_and_fails_if_it_finds_something() -> None:
    found = jobs(SCAN)
    asked = found["newest"]["steps"][-1]["run"]
    *_, look = found["images"]["steps"]

    assert yaml.safe_load(text(SCAN))[True].keys() == {
        "schedule",
        "workflow_dispatch",
    }  # YAML reads `on` as true
    assert found["images"]["strategy"]["matrix"]["role"] == ROLES
    assert "--exit-code 1" in look["run"] and "|| true" not in look["run"]
    assert "continue-on-error" not in text(SCAN)
    (chosen,) = re.findall(r"sed -nE '(.+?)'", asked)
    listed = "".join(f"refs/tags/v{each}\n" for each in ("0.9.0", "1.10.0", "1.9.0", "2.0.0rc1"))
    newest = f"sed -nE '{chosen}' | sort -V | tail -n 1"
    done = subprocess.run(["sh", "-c", newest], input=listed, capture_output=True, text=True, check=True)
    assert done.stdout == "1.10.0\n"


def test_a_release_has_the_version_of_the_project() -> None:
    """The workflow's own line, on the file that it reads there."""
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]

    (pattern,) = re.findall(r"sed -n 's/(.+?)/\\1/p' pyproject\.toml", text(RELEASE))
    in_python = pattern.replace(r"\(", "(").replace(r"\)", ")")
    assert re.findall(in_python, text("pyproject.toml"), re.MULTILINE) == [version]
