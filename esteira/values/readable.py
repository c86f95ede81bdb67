"""Prepare any stored row for display: a single invalid value is marked, and the rest is shown as usual.

The input checks and the constraints keep such values out. But a row of an old release, or one that was written by hand
without the constraints, may hold them, and must not make a whole list fail. Pure: importable before Django.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from esteira.values.bounds import NESTED, clean, is_moment, shown

TOO_DEEP = "(nested too deeply to be shown)"
TOO_LONG = "(a number with too many digits to be shown)"
#: Python refuses to write numbers of more than 4,300 digits.
MOST_BITS = 14_000


def broken(row: Any, *, moments: Iterable[str], numbers: Iterable[str], objects: Iterable[str]) -> list[str]:
    """Name the fields of a row with values that Esteira never stores."""
    found = [name for name in moments if not is_moment(getattr(row, name))]
    found += [
        name for name in numbers if getattr(row, name) is not None and number(getattr(row, name)) is None
    ]
    loaded = [name for name in objects if name not in row.get_deferred_fields()]
    found += [name for name in loaded if not isinstance(getattr(row, name), Mapping | None)]
    return found


def number(value: float | None) -> float | None:
    """Return a finite number, or None."""
    return value if value is not None and math.isfinite(value) else None


def error(value: Any) -> Mapping[str, Any] | None:
    """Return a stored error as an object, also if another type was stored."""
    if value is None or isinstance(value, Mapping):
        return value or None
    return {"kind": "broken", "type": "", "message": f"The stored error is not an object:{shown(value)}"}


def as_json(value: Any, *, indent: int | None = None, spaced: bool = False, default: Any = str) -> str:
    """Write JSON that every reader accepts: without NaN, and without text that UTF-8 cannot hold."""
    options: dict[str, Any] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "indent": indent,
        "default": default,
    }
    if indent is None and not spaced:
        options["separators"] = (",", ":")
    try:
        text = json.dumps(value, **options)
        text.encode()
    except (ValueError, RecursionError):
        text = json.dumps(_tamed(value, NESTED), **options)
    return text


def _tamed(value: Any, levels: int) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return _tamed_within(value, levels - 1) if levels else TOO_DEEP
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return clean(value)
    return TOO_LONG if isinstance(value, int) and value.bit_length() > MOST_BITS else value


def _tamed_within(value: Any, levels: int) -> Any:
    if isinstance(value, Mapping):
        return {clean(str(name)): _tamed(one, levels) for name, one in value.items()}
    return [_tamed(one, levels) for one in value]
