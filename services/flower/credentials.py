"""Flower's user:password, from FLOWER_BASIC_AUTH_FILE or FLOWER_BASIC_AUTH; without it, Flower does not start."""

import os
from pathlib import Path


def credentials() -> str:
    """Return user:password; end the process with an error message if there is none."""
    file = os.environ.get("FLOWER_BASIC_AUTH_FILE")
    given = Path(file).read_text().strip() if file else os.environ.get("FLOWER_BASIC_AUTH", "").strip()
    user, _, password = given.partition(":")
    if not user or not password:
        raise SystemExit(
            "Flower does not start without a login: set FLOWER_BASIC_AUTH to user:password, or "
            "FLOWER_BASIC_AUTH_FILE to a file with it."
        )
    return given
