"""Lists as people type and paste them."""

from __future__ import annotations

import re
from typing import Any


def split_list(value: Any) -> Any:
    """Let one text stand for a list: items by line, comma or semicolon."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in re.split(r"[\r\n,;]", value) if part.strip()]
