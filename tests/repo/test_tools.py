"""Each program that checks files finds a planted fault, so that none passes because it looked at nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.repo.tools import has_wheel, judge
from tests.repo.tree import ROOT, text

WORKFLOW = text(".github/workflows/ci.yml")
FAULTS = {
    "hadolint": ("Dockerfile", "FROM python\nRUN cd /app && pip install uv\n", ["hadolint", "Dockerfile"]),
    "shellcheck": ("script", '#!/bin/sh\nrm -rf $1/*\n', ["shellcheck", "script"]),
    "compose-spec": (
        "compose.yaml",
        "services: {web: {image: x, memory: 1g}}\n",
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    ),
    "github-workflows": (
        "ci.yml",
        WORKFLOW.replace("timeout-minutes: 90", "timeout: 90"),
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", "ci.yml"],
    ),
    "dependabot": (
        "dependabot.yml",
        "version: 2\nupdates: [{package-ecosystem: conveyor, directory: /}]\n",
        ["check-jsonschema", "--builtin-schema", "vendor.dependabot", "dependabot.yml"],
    ),
    "yamllint": ("x.yaml", "a: 1\na: 2\n", ["yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), "x.yaml"]),
    "actionlint": ("ci.yml", WORKFLOW.replace("matrix.python", "matrix.pythons"), ["actionlint", "ci.yml"]),
    "shellcheck in a workflow": (
        "ci.yml",
        WORKFLOW.replace("run: .ci/run", "run: cd $HOME/$RUNNER && rm -r $1/*"),
        ["actionlint", "-shellcheck", f"{Path(sys.executable).parent}/shellcheck", "ci.yml"],
    ),
    "zizmor": (
        ".github/workflows/ci.yml",
        WORKFLOW.replace("run: .ci/run", "run: echo ${{ github.head_ref }}"),
        ["zizmor", "--offline", ".github"],
    ),
    "trivy": (
        "Dockerfile",
        "FROM python:3.13\nUSER root\nCMD [\"python\"]\n",
        ["trivy", "config", "--quiet", "--skip-check-update", "--skip-version-check", "--exit-code=1", "."],
    ),
    "kubectl": ("kustomization.yaml", "resources: [kustomization.yaml]\n", ["kubectl", "kustomize", "."]),
    "trivy on Kubernetes": (
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostPID: true, containers: [{name: x, image: x}]}\n",
        ["trivy", "config", "--quiet", "--skip-check-update", "--skip-version-check", "--exit-code=1", "."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    name, content, (tool, *arguments) = FAULTS[fault]
    if not has_wheel(tool) or not has_wheel(fault.split(maxsplit=1)[0]):
        pytest.skip(f"{tool} has no wheel for this machine")
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)

    ended, said = judge(tool, *arguments, cwd=tmp_path)

    assert ended != 0
    assert Path(name).name in said, said
