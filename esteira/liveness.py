"""Heartbeats: the files that health checks read, and how often workers announce themselves in the database."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

ANNOUNCE_S = 5.0
#: A worker without a heartbeat for this long counts as gone.
SILENT_S = 3 * ANNOUNCE_S


def touch(name: str, sign: str = "alive") -> None:
    """Show that a loop runs (alive) or does its work (ready): health checks read the age of these files in RUN_DIR."""
    file = Path(settings.ESTEIRA_RUN_DIR) / f"{name}.{sign}"
    try:
        file.touch()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def untouch(name: str, sign: str) -> None:
    """Remove a file at once, instead of letting it become old."""
    (Path(settings.ESTEIRA_RUN_DIR) / f"{name}.{sign}").unlink(missing_ok=True)
