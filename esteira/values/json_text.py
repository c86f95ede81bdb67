"""Read JSON input in the same way at every interface: over HTTP, on the command line, in the admin's forms.

Python's own reader accepts a field that occurs twice in an object; this one reports it, because two programs that read
one document must see the same job. A number with more digits than Python reads becomes infinity, which every parameter
refuses with its own name. Pure: importable before Django.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from esteira.values.misfits import Place

#: The code of the mistake.
TWICE = "given-twice"


def read(text: str) -> tuple[Any, list[Place]]:
    """Return a document, and the places of the fields that occur in it more than once; raises ValueError."""
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


def stored(text: str) -> Any:
    """Return a document that the database stores; quicker than Python's reader, and with the same values."""
    try:
        return from_json(text)
    except ValueError:  # Python's reader allows more levels, and names what it refuses in its own words
        return json.loads(text)


class TooDeep(ValueError):
    """The document has more levels than the reader supports."""


class _Doubled(dict[str, Any]):
    """An object in which a field occurs more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = [name for name in self if names.count(name) > 1]


def _whole(digits: str) -> float | int:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts into a number
        return -math.inf if digits.startswith("-") else math.inf


def _places(document: Any, at: Place = ()) -> Iterator[Place]:
    if isinstance(document, _Doubled):
        yield from ((*at, name) for name in document.twice)
    if isinstance(document, dict):
        inner: Iterator[tuple[Any, Any]] = iter(document.items())
    else:
        inner = enumerate(document) if isinstance(document, list) else iter(())
    for name, value in inner:
        if isinstance(value, dict | list):
            yield from _places(value, (*at, name))
