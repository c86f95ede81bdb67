"""Kubernetes' own schemas and trivy on everything that the folders of k8s/ and deploy/ build."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.repo import custom_schemas
from tests.repo.manifests import COMPONENTS, OVERLAYS, base, combined, overlay
from tests.repo.tools import has_wheel, judge
from tests.repo.tree import files, text

#: The oldest and the newest Kubernetes that docs/kubernetes.md names.
OLDEST, NEWEST = "1.30", "1.37"
DOC = "docs/kubernetes.md"


def every_object() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of the base, both overlays and each component, by itself and with all others; none is checked twice."""
    seen: set[str] = set()
    together = [each for each in combined() if len(each) != 2]
    for objects in (base(), *map(overlay, OVERLAYS), *(overlay("prod", *each) for each in together)):
        for one in objects:
            if (written := str(one)) not in seen:
                seen.add(written)
                yield f"{one['kind']} {one['metadata']['name']}", one


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field(version: str) -> None:
    for name, one in every_object():
        if one["kind"] in custom_schemas.kinds():
            continue
        try:
            checked = kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{name}: {error.message}")
        assert checked == version


def test_an_operator_s_own_definition_knows_every_field_of_what_is_meant_for_it() -> None:
    found = [(name, one) for name, one in every_object() if one["kind"] in custom_schemas.kinds()]

    assert {one["kind"] for _, one in found} == custom_schemas.kinds()
    assert not [f"{name}: {mistake}" for name, one in found for mistake in custom_schemas.mistakes(one)]


def test_the_documents_claim_the_versions_that_are_checked() -> None:
    assert kubernetes_validate.latest_version().startswith(f"{NEWEST}."), (
        "there is a newer one: claim and check it"
    )
    assert f"{OLDEST} to {NEWEST}" in text(DOC)


def test_the_documents_name_every_file_and_every_component() -> None:
    told = re.findall(r"^\| ((?:`[\w.-]+`(?:, )?)+) \| \S", text(DOC), re.MULTILINE)
    named = {name for row in told for name in re.findall(r"`([\w.-]+)`", row)}
    flat = {path.name for path in files() if path.parts[0] == "k8s" and len(path.parts) == 2}

    assert flat - {".trivyignore"} <= named
    assert set(COMPONENTS) <= named


def test_the_sizing_table_says_what_the_manifests_say() -> None:
    rows = re.findall(
        r"^\| (\w+) × (\d) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.*?) ?\|$", text(DOC), re.MULTILINE
    )

    assert sorted(rows) == sorted(_sizes())


def _sizes() -> Iterator[tuple[str, ...]]:
    claims = {one["metadata"]["name"]: one for one in base() if one["kind"] == "PersistentVolumeClaim"}
    for one in base():
        if one["kind"] in ("Deployment", "StatefulSet"):
            name, spec = one["metadata"]["name"], one["spec"]
            size = spec["template"]["spec"]["containers"][0]["resources"]
            kept = [*spec.get("volumeClaimTemplates", []), *([claims[name]] if name in claims else [])]
            room = "".join(each["spec"]["resources"]["requests"]["storage"] for each in kept)
            asked, most = size["requests"], size["limits"]
            many = str(spec.get("replicas", 1))
            yield name, many, asked["cpu"], most["cpu"], asked["memory"], most["memory"], room


@pytest.mark.skipif(not has_wheel("trivy"), reason="trivy has no wheel for this machine")
def test_trivy_finds_what_is_explained_and_nothing_else(tmp_path: Path) -> None:
    """With a tag as releases have one, and with everything that goes together."""
    for number, components in enumerate([(), combined()[-1]]):
        written = yaml.safe_dump_all(overlay("prod", *components)).replace(":latest", ":1.2.0")
        (tmp_path / f"{number}.yaml").write_text(written)
    quietly = ["--quiet", "--skip-check-update", "--skip-version-check", "--format=json"]

    _, said = judge("trivy", "config", *quietly, str(tmp_path))

    found = set(re.findall(r'"ID": "(KSV-\d+)"', said))
    assert found == set(explained())


def explained() -> dict[str, str]:
    """Return each check that is ignored, with its reason."""
    why, found = "", {}
    for line in text("k8s/.trivyignore").splitlines():
        if line.startswith("# "):
            why = f"{why} {line[2:]}".strip()
        elif line:
            found[line] = why
        else:
            why = ""
    assert all(found.values())
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_field_that_kubernetes_does_not_know_is_found(version: str) -> None:
    service = next(copy.deepcopy(one) for one in base() if one["kind"] == "Service")
    service["spec"]["port"] = 80

    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(service, version, strict=True)


@pytest.mark.parametrize("kind", sorted(custom_schemas.kinds()))
def test_a_field_that_a_definition_does_not_know_or_misses_is_found(kind: str) -> None:
    one = next(copy.deepcopy(each) for _, each in every_object() if each["kind"] == kind)
    one["spec"]["nothingLikeThis"] = 80
    without = {name: value for name, value in one.items() if name != "spec"}

    assert any("nothingLikeThis" in mistake for mistake in custom_schemas.mistakes(one))
    assert custom_schemas.mistakes(without)
