"""Durations and moments: parse them as people type them, and format them for people."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from esteira.errors import Mistake
from esteira.values.bounds import shown
from esteira_web.read import words

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r" *([0-9]+(?:\.[0-9]+)?) *(s|min|m|h|d)?")


class Untypable(argparse.ArgumentTypeError):
    """A typed value that cannot be read; argparse prints the sentence of its mistake."""

    def __init__(self, code: str, **values: object) -> None:
        self.mistake = Mistake(code=code, values=values)
        super().__init__(self.mistake.detail)


def duration(text: str) -> float:
    """Read "90", "90s", "5m", "1h30m" or "2d" as seconds; for argparse."""
    at, seconds = 0, 0.0
    while text == text.strip() and (part := _PART.match(text, at)):
        seconds, at = seconds + float(part[1]) * _UNITS[part[2] or ""], part.end()
        if at == len(text):
            return seconds
    raise Untypable("no-duration", given=shown(text))


def moment(text: str) -> datetime:
    """Read a date and time with its zone; for argparse."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise Untypable("no-moment", given=shown(text), example=_example()) from None
    if when.tzinfo is None:
        raise Untypable("no-zone", text=text, example=f"{when.isoformat()}Z", other=_example())
    return when


def _example() -> str:
    """Return an example in the local time zone."""
    tomorrow = datetime.now(UTC).astimezone() + timedelta(days=1)
    return tomorrow.replace(minute=0, second=0, microsecond=0).isoformat(timespec="minutes")


def ago(when: datetime | None, now: datetime) -> str:
    """Return the distance of a moment from now: "3 min ago", "in 2 h"."""
    if when is None:
        return ""
    seconds = (now - when).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{words.span(seconds)} ago" if seconds > 0 else f"in {words.span(-seconds)}"


def span(start: datetime | None, end: datetime | None) -> str:
    return words.span(max(0.0, (end - start).total_seconds())) if start and end else ""
