"""Sizes, durations and errors as text for people, the same on the pages and in a terminal."""

from __future__ import annotations

from typing import Any

#: The number of characters of an error message in a list.
MESSAGE_SHOWN = 120


def size(count: int) -> str:
    """Format a number of bytes in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for bigger in ("MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, bigger
    return f"{amount:.1f} {unit}"


def span(seconds: float) -> str:
    """Format a duration in one or two units: "30 ms", "1.5 s", "1 min 5 s", "2 h 3 min", "4 d"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "under 1 ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, below_s, below in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            count, rest = divmod(whole, unit_s)
            return f"{count} {unit} {rest // below_s} {below}" if rest // below_s else f"{count} {unit}"
    return f"{whole} s"


def first_line(error: Any) -> str:
    """Return the beginning of an error's message; "" if there is none."""
    message = str(error.get("message") or "") if isinstance(error, dict) else ""
    line = message.strip().partition("\n")[0]
    return line if len(line) <= MESSAGE_SHOWN else f"{line[: MESSAGE_SHOWN - 1]}…"
