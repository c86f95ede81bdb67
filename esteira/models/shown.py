"""Which jobs people see in a state: what `states.shown_state` says of one job, as a condition in SQL on the row `j`."""

from __future__ import annotations

from esteira.states import State

_STATES = {
    "queued": "(j.state = 'queued' AND j.run_at <= clock_timestamp())",
    "scheduled": "(j.state = 'queued' AND j.run_at > clock_timestamp() AND j.failures = 0)",
    "retrying": "(j.state = 'queued' AND j.run_at > clock_timestamp() AND j.failures > 0)",
}


def in_state(name: str) -> str:
    """Match the jobs that people see in this state, one of `SHOWN_STATES`; three of the names are one stored state."""
    return _STATES.get(name) or f"(j.state = '{State(name)}')"
