"""How long a job asks to wait before its next try: a number of seconds or a timedelta, from 0 to ten years.

Pure: importable before Django.
"""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal

from esteira.errors import InvalidOption

#: The longest pause that a job may ask for: ten years.
LONGEST_PAUSE_S = 10 * 366 * 86400.0


def pause_s(value: object) -> float:
    """Return a pause before another try in seconds; raises InvalidOption for what is none, or longer than ten years."""
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_PAUSE_S:
        raise InvalidOption("after", "not-a-pause", most=LONGEST_PAUSE_S, given=_shown(value))
    return seconds


def _number(value: object) -> float:
    if not isinstance(value, int | float | Decimal):
        raise TypeError
    return float(value)


def _shown(value: object) -> str:
    """Return a value as people wrote it, unless its words may fill the page."""
    short = isinstance(value, float | str | timedelta) or (isinstance(value, int) and abs(value) < 10**18)
    return repr(value)[:80] if short else f"this {type(value).__name__}"
