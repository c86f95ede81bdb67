"""The bounds of `esteira.values.bounds` as conditions of CHECK constraints.

They are comparisons only, because every write pays for them.
"""

from __future__ import annotations

from django.db.models import Q

from esteira.values.bounds import END_OF_MOMENTS, FIRST_MOMENT, MOST_PROGRESS, TEN_YEARS_S


def moments(*fields: str) -> Q:
    """Moments that Python can read in any time zone, or none; 'infinity' is no moment."""
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": FIRST_MOMENT, f"{field}__lt": END_OF_MOMENTS})
    return found


def spans(*fields: str, least: float = 0.0, most: float = TEN_YEARS_S) -> Q:
    """Durations; PostgreSQL holds NaN for greater than any number, so it is none."""
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": least, f"{field}__lte": most})
    return found


def progresses(*fields: str) -> Q:
    return spans(*fields, most=MOST_PROGRESS)
