"""What `kubectl apply -k` would send: the folders of k8s/ and deploy/, built by the kustomize inside kubectl."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tests.repo.tools import judge
from tests.repo.tree import ROOT, files, text

Object = dict[str, Any]

OVERLAYS = ("dev", "prod")
COMPONENTS = tuple(
    sorted(
        path.parts[1] for path in files() if path.match("k8s/*/kustomization.yaml") and len(path.parts) == 3
    )
)
#: Two that want the same thing differently.
EXCLUSIVE = (
    frozenset({"hpa", "keda"}),
    frozenset({"backup", "external-postgres"}),
    frozenset({"gateway", "ingress"}),
    frozenset({"exporters", "external-postgres"}),
    frozenset({"exporters", "external-redis"}),
)
COMMENTED_OUT = re.compile(r"^#(?=  )", re.MULTILINE)


class DoesNotBuild(Exception):
    """What kustomize says."""


@cache
def overlay(name: str, *components: str) -> tuple[Object, ...]:
    """Return the objects of deploy/<name>, with components of k8s/ added to those that it has."""
    with copied() as here:
        file = here / "deploy" / name / "kustomization.yaml"
        if components:
            wanted = yaml.safe_load(file.read_text())
            wanted["components"] += [f"../../k8s/{each}" for each in components]
            file.write_text(yaml.safe_dump(wanted))
        return build(file.parent)


def all_taken_in(name: str) -> str:
    """Return an overlay with the # of each of its lines taken away."""
    return COMMENTED_OUT.sub("", text(f"deploy/{name}/kustomization.yaml"))


def base() -> tuple[Object, ...]:
    return build(ROOT / "k8s")


def build(folder: Path) -> tuple[Object, ...]:
    return tuple(yaml.safe_load_all(built(folder)))


def built(folder: Path) -> str:
    ended, said = judge("kubectl", "kustomize", str(folder))
    if ended != 0:
        raise DoesNotBuild(said)
    return said


@contextmanager
def copied() -> Iterator[Path]:
    """Give a folder with what is, or is about to be, under version control of k8s/ and deploy/: nobody's secrets.env."""
    with tempfile.TemporaryDirectory(prefix="esteira-k8s-") as folder:
        for path in files():
            if path.parts[0] in ("k8s", "deploy"):
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, Path(folder) / path)
        yield Path(folder)


def combined() -> list[tuple[str, ...]]:
    """Each component, each two of them, and as many as go together; `settings` is in both overlays already."""
    free = [name for name in COMPONENTS if name != "settings"]
    largest = [name for name in free if not any(name == max(pair) for pair in EXCLUSIVE if pair <= set(free))]
    found = [*combinations(free, 1), *combinations(free, 2), tuple(largest)]
    return list(dict.fromkeys(found))


def is_refused(components: Collection[str]) -> bool:
    return any(pair <= set(components) for pair in EXCLUSIVE)
