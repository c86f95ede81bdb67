"""What docs/gitops.md shows can be applied: its YAML is read, and its patches of deploy/prod do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from project.keys import SECRETS
from tests.repo.manifest_faults import faults, of_kind
from tests.repo.manifests import Object, build, copied
from tests.repo.tree import text

DOC = text(Path("docs/gitops.md"))
SHOWN: list[dict[str, Any]] = [
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
]
PATCHES = [one["patches"] for one in SHOWN if "patches" in one]


def patched(patches: object) -> tuple[Object, ...]:
    with copied() as here:
        file = here / "deploy" / "prod" / "kustomization.yaml"
        overlay = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**overlay, "patches": patches}))
        return build(file.parent)


def test_objects_are_whole_and_mean_our_secret_in_our_folder() -> None:
    by_kind = {one["kind"]: one for one in SHOWN if "kind" in one}

    assert set(by_kind) == {"Application", "ExternalSecret", "Secret"}
    application = by_kind["Application"]["spec"]
    assert application["source"]["path"] == "deploy/prod"
    (ignored,) = application["ignoreDifferences"]
    assert (ignored["kind"], ignored["name"]) == ("Secret", "esteira")
    assert by_kind["ExternalSecret"]["spec"]["target"] == {"name": "esteira", "creationPolicy": "Merge"}
    known = {secret.name for secret in SECRETS} | {"database_url", "redis_url", "email_url"}
    assert set(by_kind["Secret"]["stringData"]) <= known


def test_the_patch_for_flux_marks_the_secret() -> None:
    (secret,) = of_kind(patched(PATCHES[0]), "Secret")

    assert secret["metadata"]["annotations"] == {"kustomize.toolkit.fluxcd.io/ssa": "Merge"}


def test_the_secret_can_be_somebody_else_s() -> None:
    objects = patched(PATCHES[1])

    assert not of_kind(objects, "Secret")
    assert not faults(objects)


def test_nothing_is_applied_that_could_not_be_changed_later() -> None:
    with copied() as here:
        objects = build(here / "deploy" / "prod")

    assert not of_kind(objects, "Job", "Pod")
    assert "no Job" in " ".join(DOC.split())
