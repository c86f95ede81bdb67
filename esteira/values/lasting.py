"""Check whether parameters survive storage: the value that is read back must be the one that was submitted.

A job runs with the value to which its stored text validates, perhaps days later. For most types that is always the same
value (`always_lasts`, decided once for a signature); for the rest the stored text is read back at the submit and
compared. Pure: importable before Django.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel, SecretStr

#: Python reads no number with more digits than this.
MAX_DIGITS = 4300
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS}}}")
#: Options with which a type's JSON is no longer the value itself, or is not accepted as the value.
_CHANGING = frozenset({"serialization", "strict", "to_lower", "to_upper", "allow_inf_nan"})
#: JSON distinguishes these from each other.
_SCALARS = frozenset({"str", "int", "float", "bool", "none"})
_ANY: Mapping[str, Any] = {"type": "any"}


def always_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    """Return whether any value that a parameter model accepts is read back the same, from its core schema.

    `harmless` are validators that change nothing when they run a second time. The answer for an unknown schema is no.
    """
    fields = schema.get("schema", {})
    if schema.get("type") != "model" or fields.get("type") != "model-fields" or fields.get("computed_fields"):
        return False
    return all(_field_lasts(field, harmless) for field in fields["fields"].values())


def may_have_long_number(text: str) -> bool:
    """Return whether a JSON text may hold a number that Python writes and does not read."""
    return len(text) >= MAX_DIGITS and _LONG_NUMBER.search(text) is not None


def same(before: Any, after: Any) -> bool | None:
    """Return whether a value came back the same.

    None if its class compares identities, so that nothing can be concluded.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and _all(same(before[key], after[key]) for key in before)
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):  # JSON has one kind of list
        return len(before) == len(after) and _all(map(same, before, after))
    if isinstance(before, BaseModel) and type(before) is type(after):
        return same(before.__dict__, after.__dict__)
    return _equal(before, after)


def _equal(before: Any, after: Any) -> bool | None:
    if isinstance(before, datetime) and isinstance(after, datetime) and before.tzinfo and after.tzinfo:
        # In the hour that a clock runs twice, Python calls equal moments of different zones unequal.
        return before.astimezone(UTC) == after.astimezone(UTC)
    try:
        if bool(before == after):
            return True
    except Exception:  # from a class's own comparison, like that of an array
        return None
    by_identity = type(before) is type(after) and "__eq__" not in _attributes(type(before))
    return None if by_identity else False


def _attributes(cls: type) -> set[str]:
    return {name for base in cls.__mro__ if base is not object for name in vars(base)}


def _all(answers: Any) -> bool | None:
    unknown = False
    for answer in answers:
        if answer is False:
            return False
        unknown = unknown or answer is None
    return None if unknown else True


def _field_lasts(field: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    renamed = field.keys() & {"validation_alias", "serialization_alias", "serialization_exclude"}
    return not renamed and _lasts(field["schema"], harmless)


def _lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    if _is_secret(schema):
        return True
    judge = _JUDGES.get(schema["type"])
    return judge is not None and not (schema.keys() & _CHANGING) and judge(schema, harmless)


def _inner_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    return _lasts(schema["schema"], harmless)


def _list_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    return _lasts(schema.get("items_schema", _ANY), harmless)


def _dict_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    keys = schema.get("keys_schema", _ANY)
    return (
        keys["type"] == "str"
        and _lasts(keys, harmless)
        and _lasts(schema.get("values_schema", _ANY), harmless)
    )


def _union_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    """Return whether JSON distinguishes the members, so that each value comes back to its own member."""
    choices = [one[0] if isinstance(one, tuple) else one for one in schema["choices"]]
    return all(one["type"] in _SCALARS and _lasts(one, harmless) for one in choices)


def _literal_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    return all(type(one) in (str, int, bool, type(None)) for one in schema["expected"])


def _validator_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    return _is_harmless(schema["function"]["function"], harmless) and _inner_lasts(schema, harmless)


def _enum_lasts(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    """Return whether JSON has the members' values, by which they are found again."""
    return all(type(member.value) in (str, int) for member in schema["members"])


def _is_harmless(function: Any, harmless: Collection[Callable[..., Any]]) -> bool:
    """Return whether a validator changes nothing; length limits are partial functions of pydantic, which only check."""
    if isinstance(function, partial):
        return function.func.__module__ == "pydantic._internal._validators"
    return function in harmless


def _is_secret(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema is a Secret, which is stored in clear text and created from that text again."""
    strict = schema.get("strict_schema", {}).get("json_schema", {})
    return schema["type"] == "lax-or-strict" and strict.get("function", {}).get("function") is SecretStr


def _always(schema: Mapping[str, Any], harmless: Collection[Callable[..., Any]]) -> bool:
    return True


_JUDGES: Mapping[str, Callable[[Mapping[str, Any], Collection[Callable[..., Any]]], bool]] = {
    **dict.fromkeys([*_SCALARS, "uuid", "date"], _always),
    **dict.fromkeys(["default", "nullable"], _inner_lasts),
    "list": _list_lasts,
    "dict": _dict_lasts,
    "union": _union_lasts,
    "literal": _literal_lasts,
    "enum": _enum_lasts,
    "function-after": _validator_lasts,
}
