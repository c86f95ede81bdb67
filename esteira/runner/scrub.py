"""Remove a job's secrets from the texts of its attempt: errors, tracebacks, log lines, progress, result, file names.

A job's code may put a secret into any text, and the message of an error often contains one. So each value of a secret
parameter is replaced by stars: as it is, and as JSON, repr() and addresses write it, also one inside another. Values
shorter than four characters are not searched for, because they occur in many words; nor are values that the job derives
from a secret (a checksum, a part of it, a number). Job types without secret parameters have no scrubber: they cost one
look-up of their name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

from esteira.job_types.registry import registry

STARS = "**********"
SHORTEST = 4
#: A secret of several lines, such as a key, is also searched for line by line, if a line has this length.
SHORTEST_LINE = 16

Scrub = Callable[[str], str]


def scrubber(type_name: str, params: str) -> Scrub | None:
    """Return a function that removes the secrets of these stored parameters from a text; None if there are none."""
    names = registry.secret_names(type_name)
    if not names:
        return None
    found: set[str] = set()
    with suppress(ValueError, RecursionError):  # a row written by hand, with which the job will not run
        stored = json.loads(params)
        for name in names & set(stored if isinstance(stored, dict) else ()):
            for text in _texts(stored[name]):
                found.update(_spellings(text))
    # The longest first: a short one may be a part of a longer one.
    wanted = sorted((text for text in found if len(text) >= SHORTEST), key=len, reverse=True)
    return partial(_without, wanted) if wanted else None


def scrubbed(value: Any, scrub: Scrub) -> Any:
    """Return a value of JSON with its texts and names scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(str(name)): scrubbed(one, scrub) for name, one in value.items()}
    return [scrubbed(one, scrub) for one in value] if isinstance(value, list) else value


def _without(wanted: list[str], text: str) -> str:
    for one in wanted:
        text = text.replace(one, STARS)
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _spellings(text: str) -> Iterator[str]:
    for one in (text, *(line for line in text.splitlines() if len(line) >= SHORTEST_LINE)):
        yield one.strip()
        for written in {one, *_escaped(one)}:
            yield from _escaped(written)  # JSON inside JSON, repr() of JSON, and so on
            yield from (quote(written), quote(written, safe=""), quote_plus(written))


def _escaped(text: str) -> Iterator[str]:
    """Yield a text as Python and JSON write it inside quotes; repr() escapes a ' only if the text also has a "."""
    raw = text.encode()
    yield from (text, repr(text)[1:-1], repr(f"'\"{text}")[4:-1], repr(raw)[2:-1], repr(b"'\"" + raw)[5:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
