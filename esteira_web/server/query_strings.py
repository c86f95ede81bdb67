"""Find bytes in a query string that are not text: pages refuse them, the API reports them with other mistakes."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

NOT_UTF8 = "is not UTF-8."
Mistakes = list[dict[str, Any]]


def not_text(query: str) -> Mistakes:
    """Return the parameters of a query string that cannot be stored as text: not UTF-8, or with a NUL."""
    if "%" not in query and query.isascii():
        return []
    found: Mistakes = []
    for pair in query.split("&"):
        name, _, value = (_decoded(part) for part in pair.partition("="))
        parts = [part for part in (name, value) if part]
        if any("\ufffd" in part and "%EF%BF%BD" not in pair.upper() for part in parts):
            found.append({"parameter": name, "detail": NOT_UTF8})
        elif any("\0" in part for part in parts):
            found.append(
                {"parameter": name.replace("\0", "\ufffd"), "detail": "contains a NUL character; remove it."}
            )
    return found


def _decoded(part: str) -> str:
    return unquote_to_bytes(part.replace("+", " ")).decode("utf-8", "replace")
