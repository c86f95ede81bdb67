"""JSON that somebody wrote, read in one way at every door: over HTTP, on the command line, in the admin's forms.

What Python's own reader lets pass is told here: a field that stands in an object twice, because two programs that read
one document must see the same job. A number with more digits than Python reads becomes infinity, which every parameter
refuses by its own name. Pure: importable before Django.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from esteira.values.misfits import escaped

TWICE = "stands there twice; remove one."


def read(text: str) -> tuple[Any, list[str]]:
    """Return a document, and pointers to the fields that stand in it more than once; raises ValueError."""
    doubled: list[_Doubled] = []

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(pairs)
        if len(read) == len(pairs):
            return read
        doubled.append(_Doubled(pairs))
        return doubled[-1]

    try:
        document = json.loads(text, object_pairs_hook=fields, parse_int=_whole)
        return document, list(_places(document)) if doubled else []
    except RecursionError:
        raise TooDeep("it is nested too deeply") from None


class TooDeep(ValueError):
    """More levels than a reader has."""


class _Doubled(dict[str, Any]):
    """An object in which a field stands more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = [name for name in self if names.count(name) > 1]


def _whole(digits: str) -> float | int:
    try:
        return int(digits)
    except ValueError:  # more digits than Python turns into a number
        return -math.inf if digits.startswith("-") else math.inf


def _places(document: Any, at: str = "") -> Iterator[str]:
    if isinstance(document, _Doubled):
        yield from (f"{at}/{escaped(name)}" for name in document.twice)
    if isinstance(document, dict):
        inner: Iterator[tuple[Any, Any]] = iter(document.items())
    else:
        inner = enumerate(document) if isinstance(document, list) else iter(())
    for name, value in inner:
        if isinstance(value, dict | list):
            yield from _places(value, f"{at}/{escaped(name)}")
