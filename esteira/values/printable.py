"""Make a submitter's text safe for a terminal and for a text log: no character has an effect.

A terminal obeys control sequences: ESC and its 8-bit variants move the cursor, rename the window, hide text; CR writes
over a line; U+202E reverses the rest of it. With a line break, a submitter's text looks like a line of Esteira's own.
Control characters are replaced by their pictures (ESC is ␛), characters that are invisible or change the direction of
text by U+FFFD. Each is replaced by one character, so that tables stay aligned. Pure: importable before Django.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

#: Joins letters of some scripts, and emoji; its effect is visible and harmless.
JOINERS = {"\u200c", "\u200d"}
#: Control, format, halves of surrogate pairs, separators of lines and of paragraphs.
ODD = {"Cc", "Cf", "Cs", "Zl", "Zp"}
INDENT = "  "


class _Shown(dict[int, "str | int"]):
    """A table for `str.translate` that classifies each character when it first occurs."""

    def __init__(self, picture: Callable[[str], str], kept: set[str]) -> None:
        self._picture, self._kept = picture, kept

    def __missing__(self, code: int) -> str | int:
        c = chr(code)
        odd = unicodedata.category(c) in ODD and c not in JOINERS | self._kept
        self[code] = found = self._picture(c) if odd else code
        return found


def _picture(c: str) -> str:
    """Return the replacement of a character: Unicode has pictures of the first 32, and of DEL."""
    code = ord(c)
    return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd"


def _escaped(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


_LINES, _LINE, _JSON = _Shown(_picture, {"\n", "\t"}), _Shown(_picture, {"\t"}), _Shown(_escaped, set())


def printable(text: str) -> str:
    """Return a text of several lines; tabs and line breaks stay."""
    return text if text.isascii() and text.isprintable() else text.translate(_LINES)


def one_line(text: str) -> str:
    """Return a text in which line breaks are pictures too, for names and for a log with one line per entry."""
    return text if text.isascii() and text.isprintable() else text.translate(_LINE)


def indented(text: str) -> str:
    """Return a text whose further lines are indented, so that none looks like a line of Esteira's own."""
    return printable(text).replace("\n", f"\n{INDENT}")


def json_line(text: str) -> str:
    """Return one line of JSON with the same meaning, with odd characters escaped."""
    return text if text.isascii() and text.isprintable() else text.translate(_JSON)
