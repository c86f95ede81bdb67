"""Signs of life: files that health checks look at, and how often workers announce themselves in the database."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

ANNOUNCE_S = 5.0
#: A worker that was silent this long is not counted on.
SILENT_S = 3 * ANNOUNCE_S


def touch(name: str, sign: str = "alive") -> None:
    """Show that a loop turns (alive) or does its work (ready): checks look at the age of these files in RUN_DIR."""
    file = Path(settings.RUN_DIR) / f"{name}.{sign}"
    try:
        file.touch()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def untouch(name: str, sign: str) -> None:
    """Take a sign away at once, instead of letting it grow old."""
    (Path(settings.RUN_DIR) / f"{name}.{sign}").unlink(missing_ok=True)
