"""Find values in given parameters that cannot be stored, or that were converted into something else.

A pointer to the exact text lets a caller correct it; the reader of a model, and PostgreSQL, only report that there is
one. Pure: importable before Django.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr

from esteira.errors import Mistake
from esteira.values.bounds import NESTED, clean
from esteira.values.storable import HALF, why_not

Place = tuple[int | str, ...]
#: The place of all parameters in a request.
PARAMS: Place = ("params",)
#: The text that is shown in the place of a secret.
STARS = "**********"
#: The usual types of values that are neither booleans nor hold any.
_FLAT = frozenset({str, int, float, type(None)})


def unstorable(value: Any, at: Place = PARAMS, levels: int = NESTED) -> Iterator[Mistake]:
    """Find the texts, and the names of fields, that PostgreSQL cannot hold; deeper levels are not checked."""
    if isinstance(value, str):
        if code := why_not(value):
            yield Mistake(code=code, at=at)
        return
    for name, one in _inside(value) if levels else ():
        place = (*at, clean(str(name)))
        if isinstance(name, str) and (code := why_not(name)):
            yield Mistake(code="name-not-storable", at=place, values={"mistake": Mistake(code=code)})
        yield from unstorable(one, place, levels - 1)


def odd_names(params: Any) -> list[str]:
    """Name the parameters whose names no model can read, because they hold half of a surrogate pair."""
    return (
        [n for n in params if isinstance(n, str) and why_not(n) == HALF]
        if isinstance(params, Mapping)
        else []
    )


def taken_for_numbers(params: Any, text: str) -> list[Mistake]:
    """Find booleans that were stored as 1 or 0, because true and false are never meant as numbers."""
    return list(_taken(params, json.loads(text), PARAMS)) if _holds_bool(params) else []


def starred(value: Any, at: Place = PARAMS, levels: int = NESTED) -> Iterator[Mistake]:
    """Find secrets that are only stars, because a shown value was copied."""
    if isinstance(value, SecretStr):
        if value.get_secret_value() == STARS:
            yield Mistake(code="stars", at=at)
        return
    for name, one in _inside(value.__dict__ if isinstance(value, BaseModel) else value) if levels else ():
        yield from starred(one, (*at, name), levels - 1)


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return iter(value.items())
    return enumerate(value) if isinstance(value, list | tuple) else iter(())


def _holds_bool(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return isinstance(value, bool)
    if _FLAT.issuperset(map(type, value)):
        return False  # nearly every list ends here, without the loop
    return any(
        one is True or one is False or (isinstance(one, Mapping | list | tuple) and _holds_bool(one))
        for one in value
    )


def _taken(given: Any, stored: Any, at: Place) -> Iterator[Mistake]:
    if isinstance(given, bool):
        if isinstance(stored, int | float) and not isinstance(stored, bool):
            yield Mistake(code="boolean-for-number", at=at, values={"given": str(given).lower()})
        return
    for name, one in _inside(given):
        in_list = isinstance(stored, Sequence) and isinstance(name, int) and name < len(stored)
        if in_list or (isinstance(stored, Mapping) and name in stored):
            yield from _taken(one, stored[name], (*at, name))
