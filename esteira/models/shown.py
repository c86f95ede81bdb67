"""The rule of `states.shown_state` as conditions in SQL: which jobs users see in a state. The row is `j`."""

from __future__ import annotations

from esteira.states import State

_STATES = {
    "queued": "(j.state = 'queued' AND j.run_at <= clock_timestamp())",
    "scheduled": "(j.state = 'queued' AND j.run_at > clock_timestamp() AND j.failures = 0)",
    "retrying": "(j.state = 'queued' AND j.run_at > clock_timestamp() AND j.failures > 0)",
}


def in_state(name: str) -> str:
    """Return a condition for the jobs that users see in this state; three of `SHOWN_STATES` are one stored state."""
    return _STATES.get(name) or f"(j.state = '{State(name)}')"
