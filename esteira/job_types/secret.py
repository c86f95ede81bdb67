"""Find the parameters of a job type that hold no secret: only those are shown, and only those may be in a unique key.

A whole parameter is secret if a secret may be anywhere inside it. Pure: importable before Django.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from esteira.job_types.parameters import Params


@lru_cache(maxsize=1024)
def open_names(model: type[Params]) -> frozenset[str]:
    """Return the names of the parameters that are shown to every user who may see parameters."""
    schema = model.model_json_schema(by_alias=False)
    parts = schema.get("$defs", {})
    return frozenset(
        name for name, field in schema.get("properties", {}).items() if not _secret(field, parts, set())
    )


@lru_cache(maxsize=1024)
def hidden_names(model: type[Params]) -> frozenset[str]:
    """Return the names of the other parameters: those that hold a secret, or may."""
    return frozenset(model.model_fields) - open_names(model)


def _secret(node: Any, parts: Mapping[str, Any], seen: set[str]) -> bool:
    """Search for pydantic's mark of a secret in a piece of JSON Schema and in all its references."""
    if isinstance(node, list):
        return any(_secret(one, parts, seen) for one in node)
    if not isinstance(node, dict):
        return False
    if node.get("writeOnly") is True:
        return True
    name = str(node.get("$ref", "")).rsplit("/", 1)[-1]
    if name in parts and name not in seen:
        seen.add(name)
        if _secret(parts[name], parts, seen):
            return True
    return any(_secret(value, parts, seen) for value in node.values())
