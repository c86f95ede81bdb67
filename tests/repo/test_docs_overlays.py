"""What docs/kubernetes.md shows of kustomize builds as it stands, and does what the page says."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.repo.manifest_faults import faults, of_kind, pods
from tests.repo.manifests import Object, build, copied
from tests.repo.test_k8s_checked import NEWEST, OLDEST
from tests.repo.tree import text
from tests.support.checkout import commit_all

DOC = text("docs/kubernetes.md")
SHOWN: list[dict[str, Any]] = [
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
]
(OVERLAY,) = [one for one in SHOWN if "resources" in one]
(PLACES,) = [one for one in SHOWN if "patches" in one]
#: The repository as the page calls it, and the release that it names.
FROM, RELEASE = "https://github.com/example/esteira", "v1.2.0"
SPREAD = ("web", "worker", "beat")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Object, ...]:
    """The page's overlay, in a folder with nothing else, on a repository whose newest commit is not the release."""
    place = tmp_path_factory.mktemp("remote")
    with copied() as repository:
        commit_all(repository, "A release")
        subprocess.run(["git", "tag", RELEASE], cwd=repository, check=True)
        (repository / "k8s" / "web.yaml").write_text("no: manifest\n")
        commit_all(repository, "What came later")
        written = yaml.safe_dump(OVERLAY)
        assert FROM in written
        (place / "kustomization.yaml").write_text(written.replace(FROM, f"file://{repository}"))
        return build(place)


def test_an_overlay_elsewhere_takes_the_manifests_of_a_release_by_its_tag(
    fetched: tuple[Object, ...],
) -> None:
    assert not faults(fetched)
    assert {one["metadata"]["namespace"] for one in fetched} == {OVERLAY["namespace"]}
    assert of_kind(fetched, "CronJob"), "a component is fetched as well"


def test_it_names_our_images_by_the_number_of_that_release(fetched: tuple[Object, ...]) -> None:
    images = {c["image"] for pod in pods(fetched) for c in pod.containers() if "esteira" in c["image"]}

    number = RELEASE.removeprefix("v")
    assert images == {
        f"ghcr.io/example/esteira-{role}:{number}" for role in ("web", "worker", "beat", "flower")
    }


def test_everything_that_it_fetches_is_of_one_release() -> None:
    named = [*OVERLAY["resources"], *OVERLAY["components"]]

    assert {each.rpartition("?ref=")[2] for each in named} == {RELEASE}
    assert {image["newTag"] for image in OVERLAY["images"]} == {RELEASE.removeprefix("v")}


@pytest.fixture(scope="module")
def placed() -> tuple[Object, ...]:
    """Prod with a CronJob, and the page's patches."""
    with copied() as here:
        file = here / "deploy" / "prod" / "kustomization.yaml"
        overlay = yaml.safe_load(file.read_text())
        overlay["components"].append("../../k8s/backup")
        file.write_text(yaml.safe_dump({**overlay, **PLACES}))
        return build(file.parent)


def test_every_pod_gets_the_priority_the_nodes_and_the_toleration(placed: tuple[Object, ...]) -> None:
    found = pods(placed)

    assert {"web", "worker", "beat", "flower", "keys", "postgres", "redis", "backup", "restore"} <= {
        p.name for p in found
    }
    for pod in found:
        assert pod.spec["priorityClassName"] == "jobs", pod.name
        assert pod.spec["nodeSelector"] == {"pool": "jobs"}, pod.name
        assert pod.spec["tolerations"] == [{"key": "pool", "value": "jobs", "effect": "NoSchedule"}], pod.name
    assert not faults(placed)


def test_what_there_are_several_of_is_spread_over_nodes_and_zones(placed: tuple[Object, ...]) -> None:
    spread = {pod.name: pod.spec.get("topologySpreadConstraints", []) for pod in pods(placed)}

    for name in SPREAD:
        keys = [each["topologyKey"] for each in spread[name]]
        assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"], name
        assert spread[name][1]["matchLabelKeys"] == ["app.kubernetes.io/name"], (
            "each kind is counted by itself"
        )


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field_of_the_patches(placed: tuple[Object, ...], version: str) -> None:
    for one in of_kind(placed, "Deployment", "StatefulSet", "CronJob"):
        assert kubernetes_validate.validate(one, version, strict=True) == version
