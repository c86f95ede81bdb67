"""Word an error: make its sentence from a code and named values. No other place of the core builds such a sentence.

`english` holds a template for every code. Another language is another module like it: the errors stay as they are,
because they carry codes and values. Pure: importable before Django.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from esteira.wording import english

#: A template for each code, of all packages; see `add`.
SENTENCES: dict[str, str] = dict(english.SENTENCES)


def add(sentences: Mapping[str, str]) -> None:
    """Add the templates of another package; raises ValueError for a code that has one already."""
    if taken := sentences.keys() & SENTENCES.keys():
        raise ValueError(f"these codes have a template already: {', '.join(sorted(taken))}")
    SENTENCES.update(sentences)


def sentence(code: str, values: Mapping[str, Any]) -> str:
    """Return the sentence for a code; a mistake that another library has found has a `message` of its own."""
    return _WORDER.vformat(SENTENCES["other" if "message" in values else code], (), values)


def names_in(template: str) -> set[str]:
    """Return the names of the values that a template needs."""
    return {field for _, field, _, _ in Formatter().parse(template) if field is not None}


class _Worder(Formatter):
    """Formats values as Python does, and by the words of the language: {names:list}, {limit:size}, {least:span}."""

    def format_field(self, value: Any, format_spec: str) -> str:
        written = english.WRITTEN.get(format_spec)
        return written(value) if written else str(super().format_field(value, format_spec))


_WORDER = _Worder()
