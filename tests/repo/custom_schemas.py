"""The schemas of kinds that only a cluster with somebody's operator knows, cut down from their own definitions.

`python -m tests.repo.custom_schemas CRD.yaml…` writes those of the newest versions to tests/repo/schemas. Words for
people and defaults are left out, and so are rules in CEL, which only a server can try. A field that a definition does
not know is a mistake here; a server would drop it without a word.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FOLDER = Path(__file__).parent / "schemas"
KEPT = (
    "type enum pattern required minLength maxLength minItems maxItems minimum maximum minProperties maxProperties "
    "anyOf oneOf allOf not"
).split()
IN_GROUPS = ("anyOf", "oneOf", "allOf")
Schema = dict[str, Any]


def kinds() -> set[str]:
    return {path.stem for path in FOLDER.glob("*.json")}


def mistakes(one: dict[str, Any]) -> list[str]:
    """Return what is wrong with an object of one of these kinds, each with its place."""
    found = _validator(one["kind"]).iter_errors(one)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((FOLDER / f"{kind}.json").read_text()))


def cut_down(definition: dict[str, Any]) -> Schema:
    """Return the schema of a definition's newest version that a server would store."""
    spec = definition["spec"]
    (version,) = [each for each in spec["versions"] if each["storage"]]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {
        "apiVersion": {"const": f"{spec['group']}/{version['name']}"},
        "kind": {"const": spec["names"]["kind"]},
        "metadata": {"type": "object"},
    }
    return {**schema, "required": ["apiVersion", "kind", "metadata", "spec"]}


def _strict(given: Schema) -> Schema:
    schema: Schema = {name: given[name] for name in KEPT if name in given}
    for name in IN_GROUPS:
        if name in given:
            schema[name] = [_part(each) for each in given[name]]
    if given.get("x-kubernetes-int-or-string"):
        schema = {"type": ["integer", "string"]}
    if "items" in given:
        schema["items"] = _strict(given["items"])
    if "properties" in given:
        schema["properties"] = {name: _strict(each) for name, each in given["properties"].items()}
        if not given.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    elif isinstance(given.get("additionalProperties"), dict):
        schema["additionalProperties"] = _strict(given["additionalProperties"])
    return schema


def _part(given: Schema) -> Schema:
    """A branch adds to what stands around it, which alone says what may be there at all."""
    schema: Schema = {name: given[name] for name in KEPT if name in given}
    if "properties" in given:
        schema["properties"] = {name: _part(each) for name, each in given["properties"].items()}
    return schema


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in sys.argv[1:]:
        definition = yaml.safe_load(Path(path).read_text())
        written = json.dumps(cut_down(definition), separators=(",", ":"), sort_keys=True)
        (FOLDER / f"{definition['spec']['names']['kind']}.json").write_text(written + "\n")
