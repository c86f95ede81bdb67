"""Find values that JSON in PostgreSQL cannot hold, and would change or refuse without naming the parameter.

Half of a surrogate pair is not a character, a NUL cannot be stored, and JSON has text for keys, so that 1 and "1" are
the same. The writers of JSON refuse some of these with a message that names no parameter, and silently replace the
others. Pure: importable before Django.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

#: The codes of the mistakes.
HALF, NUL_INSIDE = "half-character", "nul"
_FLAT = frozenset({"str", "int", "float", "bool", "none", "date", "uuid", "literal", "enum"})
_ANY: Mapping[str, Any] = {"type": "any"}


def why_not(value: Any) -> str:
    """Return the code of the mistake in a text, in a value or in its keys; empty if all of them can be stored."""
    seen: set[int] = set()
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            if "\0" in one:
                return NUL_INSIDE
            if not encodes(one):
                return HALF
        elif id(one) not in seen:
            seen.add(id(one))  # a value may contain itself
            rest.extend(_inside(one))
    return ""


def merged_in_json(before: Any, after: Any) -> bool:
    """Return whether dicts lost entries on their way to JSON, because two of their keys became equal there."""
    rest = [(before, after)]
    while rest:
        one, made = rest.pop()
        if isinstance(one, dict) and isinstance(made, dict):
            if len(made) < len(one):
                return True
            rest.extend(zip(one.values(), made.values(), strict=False))
        elif isinstance(one, list | tuple) and isinstance(made, list):
            rest.extend(zip(one, made, strict=False))
    return False


def merged_when_read(schema: Mapping[str, Any], given: Any, checked: Any) -> bool:
    """Return whether the check of a plain dict, by its core schema, merged two keys into one: "1" and "01" into 1.

    A validator of the type's own may drop entries on purpose, so values behind one are not compared.
    """
    kind = schema["type"]
    if kind in {"default", "nullable"}:
        return merged_when_read(schema["schema"], given, checked)
    if kind == "dict" and isinstance(given, Mapping) and isinstance(checked, dict):
        inner = schema.get("values_schema", _ANY)
        return len(checked) < len(given) or _any_merged(inner, given.values(), checked.values())
    if kind == "list" and isinstance(given, list | tuple) and isinstance(checked, list):
        return _any_merged(schema.get("items_schema", _ANY), given, checked)
    return False


def may_merge(schema: Mapping[str, Any]) -> bool:
    """Return whether `merged_when_read` can be true of any value of this core schema."""
    if schema["type"] in {"default", "nullable"}:
        return may_merge(schema["schema"])
    if schema["type"] == "list":
        return may_merge(schema.get("items_schema", _ANY))
    return bool(schema["type"] == "dict")


def _any_merged(inner: Mapping[str, Any], given: Iterable[Any], checked: Iterable[Any]) -> bool:
    if inner["type"] in _FLAT:
        return False
    return any(merged_when_read(inner, a, b) for a, b in zip(given, checked, strict=False))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, BaseModel):
        return value.__dict__.values()
    return [value.get_secret_value()] if isinstance(value, SecretStr) else ()


def encodes(text: str) -> bool:
    """Return whether a text holds only whole characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
