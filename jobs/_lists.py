"""Split lists that people type or paste."""

from __future__ import annotations

import re
from typing import Any


def split_list(value: Any) -> Any:
    """Split a text into a list: line breaks, commas and semicolons separate the items."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in re.split(r"[\r\n,;]", value) if part.strip()]
