"""The states of a job and every legal arrow between them.

Pure data: no database, no Django. `record` is the only writer, and the docstrings of its functions name transitions of
this table; docs/lifecycle.md lists the writer and the guard of each. A trigger of the database refuses every arrow that
belongs to no transition (migration 0002). Tests compare the trigger and the diagram with this table.

Users and the API see two more names, derived from a queued row: *scheduled* (its first try is in the future) and
*retrying* (it failed before and waits). One function derives them in Python and one expression in SQL, and a property
test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """The stored states."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.DEAD, State.CANCELLED, State.EXPIRED})
#: An operator may send these back to the queue (T13). A success never runs again: "run again" makes a new job.
RETRYABLE = frozenset({State.FAILED, State.DEAD, State.CANCELLED, State.EXPIRED})

SHOWN_STATES = (
    "scheduled",
    "queued",
    "retrying",
    "running",
    "succeeded",
    "failed",
    "dead",
    "cancelled",
    "expired",
)


#: A stored state and the next one; None means that there is no row yet.
Arrow = tuple[State | None, State]


@dataclass(frozen=True)
class Transition:
    """An act on a job, and the arrows along which its statements move the job."""

    code: str
    name: str
    arrows: frozenset[Arrow]


def _from(source: State | None, *targets: State) -> frozenset[Arrow]:
    return frozenset((source, target) for target in targets)


_Q, _R = State.QUEUED, State.RUNNING
_FAILED, _DEAD, _CANCELLED = State.FAILED, State.DEAD, State.CANCELLED

TRANSITIONS = (
    Transition("T1", "submit", _from(None, _Q)),
    Transition("T2", "publish", _from(_Q, _Q)),
    Transition("T3", "claim", _from(_Q, _R)),
    Transition("T4", "extend", _from(_R, _R)),
    Transition("T5", "succeed", _from(_R, State.SUCCEEDED)),
    Transition("T6", "fail", _from(_R, _Q, _FAILED, _CANCELLED)),
    Transition("T7", "process lost", _from(_R, _Q, _DEAD, _CANCELLED)),
    Transition("T8", "lease ended", _from(_R, _Q, _DEAD, _CANCELLED)),
    Transition("T9", "worker restarted", _from(_R, _Q, _DEAD, _CANCELLED)),
    Transition("T10", "hand back", _from(_R, _Q, _DEAD, _CANCELLED)),
    Transition("T11", "cancel waiting", _from(_Q, _CANCELLED)),
    Transition("T12", "cancel running", _from(_R, _R, _CANCELLED)),
    Transition("T13", "retry by an operator", frozenset((ended, _Q) for ended in RETRYABLE)),
    Transition("T14", "refuse", _from(_Q, _Q) | _from(_R, _Q, _FAILED, _CANCELLED)),
    Transition("T15", "expire", _from(_Q, State.EXPIRED)),
)

#: All arrows of all transitions.
ARROWS: frozenset[Arrow] = frozenset(arrow for t in TRANSITIONS for arrow in t.arrows)


def shown_state(state: str, *, failures: int, run_at: datetime, now: datetime) -> str:
    """Return a job's state as users and the API see it; `now` is the database's clock."""
    if state == State.QUEUED and run_at > now:
        return "retrying" if failures else "scheduled"
    return str(state)


def tries(state: str, failures: int) -> int:
    """Count the tries that a job has used: the attempts that failed, and the one that runs or has succeeded.

    An attempt that was handed back, lost, cancelled or refused uses no try.
    """
    return failures + (state in (State.RUNNING, State.SUCCEEDED))


#: The derivation of `shown_state` over a row of the job table, as an SQL expression.
SHOWN_STATE_SQL = """CASE WHEN state = 'queued' AND run_at > clock_timestamp()
  THEN CASE WHEN failures > 0 THEN 'retrying' ELSE 'scheduled' END ELSE state END"""
