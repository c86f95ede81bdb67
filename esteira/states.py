"""The states of a job and every legal arrow between them.

Pure data: no database, no Django. `record` is the only writer and each of its statements names one transition from
this table; the database's own trigger (first migration) refuses what the table does not hold. People and the API see
two more names, derived from a queued row: *scheduled* (its first try lies in the future) and *retrying* (it failed
before and waits). One pair of functions derives them, in Python and in SQL, and a property test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """What is stored."""

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


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One arrow: who may draw it and what must hold in the statement's WHERE clause."""

    code: str
    name: str
    source: tuple[State | None, ...]
    target: tuple[State, ...]
    writer: str
    guard: str


_Q, _R = State.QUEUED, State.RUNNING

TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        code="T1",
        name="submit",
        source=(None,),
        target=(_Q,),
        writer="web, keeper (tick), job code",
        guard="unique key while queued or running; (schedule, tick)",
    ),
    Transition(
        code="T2",
        name="publish",
        source=(_Q,),
        target=(_Q,),
        writer="submit, keeper",
        guard="queued, not published, due, not held; in turn: none of its schedule published or running",
    ),
    Transition(
        code="T3",
        name="claim",
        source=(_Q,),
        target=(_R,),
        writer="pool process",
        guard="queued, due, not expired, not held, queue not paused",
    ),
    Transition(
        code="T4",
        name="extend",
        source=(_R,),
        target=(_R,),
        writer="lease thread",
        guard="id, attempt, running",
    ),
    Transition(
        code="T5",
        name="succeed",
        source=(_R,),
        target=(State.SUCCEEDED,),
        writer="pool process",
        guard="id, attempt, running; 0 rows: roll back",
    ),
    Transition(
        code="T6",
        name="fail",
        source=(_R,),
        target=(_Q, State.FAILED, State.CANCELLED),
        writer="pool process",
        guard="id, attempt, running",
    ),
    Transition(
        code="T7",
        name="process lost",
        source=(_R,),
        target=(_Q, State.DEAD, State.CANCELLED),
        writer="worker's parent",
        guard="delivery, running",
    ),
    Transition(
        code="T8",
        name="lease ended",
        source=(_R,),
        target=(_Q, State.DEAD, State.CANCELLED),
        writer="keeper",
        guard="running, lease ended, no sweep hold",
    ),
    Transition(
        code="T9",
        name="worker restarted",
        source=(_R,),
        target=(_Q, State.DEAD, State.CANCELLED),
        writer="booting worker",
        guard="running, of the incarnation that had my name before, process gone",
    ),
    Transition(
        code="T10",
        name="hand back",
        source=(_R,),
        target=(_Q, State.CANCELLED, State.DEAD),
        writer="draining worker, pool process",
        guard="running and mine (incarnation, delivery, or id and attempt)",
    ),
    Transition(
        code="T11",
        name="cancel waiting",
        source=(_Q,),
        target=(State.CANCELLED,),
        writer="web",
        guard="queued",
    ),
    Transition(
        code="T12",
        name="cancel running",
        source=(_R,),
        target=(_R, State.CANCELLED),
        writer="web (flag), then pool process, parent or keeper",
        guard="running; then as T6, T7, T8",
    ),
    Transition(
        code="T13",
        name="retry by an operator",
        source=tuple(sorted(RETRYABLE)),
        target=(_Q,),
        writer="operator",
        guard="failed, dead, cancelled or expired",
    ),
    Transition(
        code="T14",
        name="refuse",
        source=(_Q, _R),
        target=(_Q, State.FAILED, State.CANCELLED),
        writer="pool process, worker's parent",
        guard="queued; or claimed by me and its function not called; failed after 10 minutes of refused parameters",
    ),
    Transition(
        code="T15",
        name="expire",
        source=(_Q,),
        target=(State.EXPIRED,),
        writer="keeper, claim",
        guard="queued, expires_at passed",
    ),
)

#: Every (from, to) pair that some transition allows; None is "no row yet".
ARROWS: frozenset[tuple[State | None, State]] = frozenset(
    (source, target) for t in TRANSITIONS for source in t.source for target in t.target
)


def allowed(source: State | None, target: State) -> bool:
    """Say whether any transition leads from one stored state to the other."""
    return (source, target) in ARROWS


def shown_state(state: str, *, failures: int, run_at: datetime, now: datetime) -> str:
    """Name a job's state as people and the API see it; `now` is the database's clock."""
    if state == State.QUEUED and run_at > now:
        return "retrying" if failures else "scheduled"
    return str(state)


def tries(state: str, failures: int) -> int:
    """Count the tries that a job has used: the attempts that failed, and the one that runs or has succeeded.

    An attempt that was handed back, lost, cancelled or refused used none.
    """
    return failures + (state in (State.RUNNING, State.SUCCEEDED))


#: The derivation of `shown_state` over a row of the job table, as an SQL expression.
SHOWN_STATE_SQL = """CASE WHEN state = 'queued' AND run_at > clock_timestamp()
  THEN CASE WHEN failures > 0 THEN 'retrying' ELSE 'scheduled' END ELSE state END"""
