"""Template filters and tags for times, durations and states on the pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django import template

from esteira_web.read import words

register = template.Library()

#: A sign beside the name of each state: many people cannot distinguish states by colour alone.
SIGNS = {
    "scheduled": "◷",
    "queued": "○",
    "retrying": "↻",
    "running": "▶\ufe0e",  # the selector makes it text, not a coloured emoji
    "succeeded": "✓",
    "failed": "✕",
    "dead": "✖\ufe0e",
    "cancelled": "⊘",
    "expired": "◔",
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@register.filter
def sign(state: str) -> str:
    return SIGNS.get(state, "·")


@register.filter
def exact(at: datetime | None) -> str:
    """Format a moment to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


@register.filter
def machine(at: datetime | None) -> str:
    return at.astimezone(UTC).isoformat() if at else ""


@register.simple_tag
def ago(at: datetime | None, now: datetime) -> str:
    """Format the distance of a moment from the database's clock: "3 min ago", "in 2 h"."""
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    size, unit = next((size, unit) for size, unit in _UNITS if abs(seconds) >= size)
    told = f"{abs(seconds) // size:.0f} {unit}"
    return f"{told} ago" if seconds > 0 else f"in {told}"


@register.simple_tag
def took(job: Any, now: datetime) -> str:
    """Format how long a job ran, or has been running."""
    begun = job.started_at or job.claimed_at
    if begun is None or job.state == "queued":
        return ""
    return words.span(max(0.0, ((job.finished_at or now) - begun).total_seconds()))


@register.filter
def size(count: int) -> str:
    return words.size(count)


@register.filter
def first_line(error: Any) -> str:
    """Return the beginning of an error message."""
    return words.first_line(error)


@register.simple_tag
def percent(job: Any) -> str:
    if not job.progress_total or job.progress_done is None:
        return ""
    return f"{min(100, max(0, 100 * job.progress_done / job.progress_total)):.0f}"
