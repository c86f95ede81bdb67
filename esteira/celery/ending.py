"""The end of a task's attempt: one transaction with its state, its result and everything that follows from it.

What follows are messages that the tracer has sent for success (links, the rest of a chain), a part of a chord, and
errbacks. Every transaction is fenced by the attempt. It may be repeated after a lost connection: either it has moved
the row, or nothing of it is stored. Without a result and without anything that follows, the runner records the end
together with others. If the process dies before the commit, the whole attempt runs again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from esteira.celery import message
from esteira.celery.current import Unit
from esteira.celery.send import publish_if_open, send_hints
from esteira.celery.wake import wake
from esteira.job_types.exceptions import LeaseLost
from esteira.record import finish, results, tasks
from esteira.record.finish import Outcome
from esteira.record.tasks import NewTask
from esteira.runner.outcome import told
from esteira.runner.patience import until_answered

Follow = Callable[[], None]


class _NotMine(Exception):
    """Another attempt owns the row, or an earlier try of this transaction was committed."""


def succeed(unit: Unit, payload: bytes | None, follow: Follow | None, keep_s: float | None = None) -> None:
    """End an attempt with success, or without a result if there is no payload."""
    if unit.following is not None:  # by retry(throw=False): this row ends, and that message is one of its own
        unit.collected.append(unit.following)
        unit.following = None
    outcome = _outcome(unit, "succeeded")
    if payload is None and follow is None and not unit.collected:
        unit.has_ended, unit.outcome = True, outcome
        return

    def write() -> list[NewTask]:
        _finish(unit, outcome)
        if payload is not None:
            results.store_result(unit.core, unit.task_id, "SUCCESS", payload, keep_s)
        return _follow(unit, follow)

    _commit(unit, outcome, write, lambda state, _: state == "succeeded")


def fail(unit: Unit, payload: bytes | None, exc: BaseException, follow: Follow, keep_s: float | None) -> None:
    """End an attempt with a failure; Celery has no tries left for it."""
    unit.following = None
    outcome = _outcome(unit, "given_up", error=json.dumps(told(exc), ensure_ascii=False))

    def write() -> list[NewTask]:
        _finish(unit, outcome)
        if payload is not None:
            results.store_result(unit.core, unit.task_id, "FAILURE", payload, keep_s)
        now = _follow(unit, follow)
        tasks.settle_mine(unit.core, *unit.held.mine)
        return now

    _commit(unit, outcome, write, lambda state, _: state in ("failed", "cancelled"))


def go_again(unit: Unit, payload: bytes | None, exc: BaseException | None, keep_s: float | None) -> None:
    """Put the row back into its queue with the message by which the task asked to be tried again."""
    following = unit.following
    assert following is not None, "a retry has a message"
    error = json.dumps({**told(exc or Exception("the task asked to be tried again")), "kind": "retry"})
    outcome = _outcome(unit, "failed")
    publish_if_open([following])
    keeps_priority = _keeps_priority(unit, following)

    def write() -> list[NewTask]:
        hint_now = tasks.again(
            unit.core,
            *unit.held.mine,
            following,
            error=error,
            started_s=outcome.started_s,
            keeps_priority=keeps_priority,
        )
        if hint_now is None:
            raise _NotMine
        if payload is not None:
            results.store_result(unit.core, unit.task_id, "RETRY", payload, keep_s)
        return [following] if hint_now else []

    _commit(
        unit,
        outcome,
        write,
        lambda state, same: same and state in ("queued", "cancelled"),
        "queued",
    )


def reject(unit: Unit) -> None:
    """Hand back a message that the task rejected and wants again."""
    mine = unit.held.mine

    def write() -> list[NewTask]:
        if not tasks.reject(unit.core, *mine):
            raise _NotMine
        return []

    _commit(unit, None, write, lambda state, _: state in ("queued", "cancelled"))


def _finish(unit: Unit, outcome: Outcome) -> None:
    record = finish.complete if outcome.kind == "succeeded" else finish.fail
    if not record(unit.core, outcome):
        raise _NotMine


def _follow(unit: Unit, follow: Follow | None) -> list[NewTask]:
    """Collect what follows and store it; return the messages whose hints are to be sent now."""
    unit.in_end = True
    try:
        if follow is not None:
            follow()
    finally:
        unit.in_end = False
    publish_if_open(unit.collected)
    return tasks.insert(unit.core, unit.collected) if unit.collected else []


def _commit(
    unit: Unit,
    outcome: Outcome | None,
    write: Callable[[], list[NewTask]],
    is_mine: Callable[[str, bool], bool],
    state: str = "",
) -> None:
    """Run the transaction until the database answers, and then what waits for its commit.

    `is_mine` decides whether the row, as a state and as having the message that was written, shows an earlier try of
    this transaction, whose answer was lost.
    """
    held, collected, tries = unit.held, list(unit.collected), 0

    def once() -> list[NewTask] | None:
        nonlocal tries
        tries += 1
        unit.collected, unit.later = list(collected), []
        try:
            with unit.core.transaction():
                now = write()
                held.begin_commit()
        except _NotMine:
            held.end_commit(committed=False)
            following = unit.following.message if unit.following else b""
            became = tasks.became(unit.core, *held.mine, following)
            if became is not None and became[0] == "running":
                return None  # another transaction locked the row
            if tries == 1 or became is None or not is_mine(became[0], became[1]):
                held.lose()
                raise LeaseLost from None
            now = []  # the keeper finds that their hints are missing
        except BaseException:
            held.end_commit(committed=False)
            raise
        return now

    now = until_answered(once, waits="the end of a task waits to be recorded") or []
    held.end_commit(committed=True)
    unit.has_ended = True
    if outcome is not None:
        unit.count(outcome, state or ("succeeded" if outcome.kind == "succeeded" else "failed"))
    send_hints(now)
    wake([unit.task_id])
    for call in unit.later:
        call()


def _keeps_priority(unit: Unit, following: NewTask) -> bool:
    """Return whether a message asks for no other priority: Celery hands on the 0 of a message that asked for none."""
    before = unit.held.job.message
    assert before is not None, "the job of a unit is a task"
    return _priority_in(before) == _priority_in(following.message)


def _priority_in(stored: bytes) -> object:
    return message.read(stored).properties.get("priority")


def _outcome(unit: Unit, kind: str, error: str | None = None) -> Outcome:
    held = unit.held
    return Outcome(
        id=held.job.id,
        attempt=held.job.attempt,
        kind=kind,
        started_s=(held.started or held.claimed) - held.claimed,
        ended_s=time.monotonic() - held.claimed,
        error=error,
    )
