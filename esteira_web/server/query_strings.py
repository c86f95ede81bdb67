"""Find bytes in a query string that are not text: pages refuse them, the API reports them with other mistakes."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from esteira.errors import Mistake


def not_text(query: str) -> list[Mistake]:
    """Return the parameters of a query string that cannot be stored as text: not UTF-8, or with a NUL."""
    if "%" not in query and query.isascii():
        return []
    found: list[Mistake] = []
    for pair in query.split("&"):
        name, _, value = (_decoded(part) for part in pair.partition("="))
        parts = [part for part in (name, value) if part]
        if any("\ufffd" in part and "%EF%BF%BD" not in pair.upper() for part in parts):
            found.append(Mistake(code="not-utf-8", parameter=name))
        elif any("\0" in part for part in parts):
            found.append(Mistake(code="nul-in-address", parameter=name.replace("\0", "\ufffd")))
    return found


def _decoded(part: str) -> str:
    return unquote_to_bytes(part.replace("+", " ")).decode("utf-8", "replace")
