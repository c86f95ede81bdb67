"""What to type next, as it is typed where people sit: in front of a container it begins otherwise."""

from __future__ import annotations

from django.conf import settings


def typed(words: str) -> str:
    """Return the line that runs `jobs …` here."""
    return f"{settings.MANAGE_COMMAND} jobs {words}"


def here() -> bool:
    """Whether this command runs where it was typed, so that what it writes is there."""
    return str(settings.MANAGE_COMMAND).endswith("manage.py")
