"""What may be shown of a job's parameters: everything but secrets.

Rows hold secrets in clear, because the job needs them; whatever shows a job (pages, API, admin, command line) asks here
first. A parameter is hidden whole if a secret may be anywhere inside it. What this release does not know is hidden too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from esteira.errors import UnknownJobType
from esteira.params import Params
from esteira.registry import registry

HIDDEN = "**********"


def shown_params(type_name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's stored parameters with the secret ones replaced by stars."""
    try:
        open_names = _open_names(registry.get(type_name).model)
    except UnknownJobType:
        open_names = frozenset()
    return {name: value if name in open_names else HIDDEN for name, value in params.items()}


@lru_cache(maxsize=1024)
def _open_names(model: type[Params]) -> frozenset[str]:
    schema = model.model_json_schema(by_alias=False)
    parts = schema.get("$defs", {})
    return frozenset(
        name for name, field in schema.get("properties", {}).items() if not _secret(field, parts, set())
    )


def _secret(node: Any, parts: Mapping[str, Any], seen: set[str]) -> bool:
    """Look for pydantic's mark of a secret in a piece of JSON Schema and in all that it refers to."""
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
