"""Which jobs people see in a state: what `states.shown_state` says of one job, as a condition for a query of many."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q

from esteira.models import ClockTimestamp


def in_state(name: str) -> Q:
    """Match the jobs that people see in this state; three of the names are one stored state."""
    if name == "queued":
        return Q(state="queued", run_at__lte=ClockTimestamp())
    if name == "scheduled":
        return Q(state="queued", run_at__gt=ClockTimestamp(), failures=0)
    if name == "retrying":
        return Q(state="queued", run_at__gt=ClockTimestamp(), failures__gt=0)
    return Q(state=name)


def in_states(names: Iterable[str]) -> Q:
    """Match the jobs in any of these states; without names, all jobs."""
    found = Q()
    for name in names:
        found |= in_state(name)
    return found
