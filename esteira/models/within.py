"""The bounds of `esteira.values.bounds` as conditions of CHECK constraints.

They consist of comparisons only, because every write evaluates them.
"""

from __future__ import annotations

from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import LessThanOrEqual

from esteira.values.bounds import END_OF_MOMENTS, FIRST_MOMENT, MOST_PROGRESS, TEN_YEARS_S


def moments(*fields: str) -> Q:
    """Allow moments that Python can read in any time zone, and null; 'infinity' is not allowed."""
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": FIRST_MOMENT, f"{field}__lt": END_OF_MOMENTS})
    return found


def spans(*fields: str, least: float = 0.0, most: float = TEN_YEARS_S) -> Q:
    """Allow durations; NaN is not allowed, because PostgreSQL sorts it above every number."""
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": least, f"{field}__lte": most})
    return found


def progresses(*fields: str) -> Q:
    return spans(*fields, most=MOST_PROGRESS)


def at_most(field: str, most: int) -> Q:
    """Allow values up to a length: characters of a text, bytes of a binary field. No stored value is read for it."""
    return Q(LessThanOrEqual(Length(field), most))
