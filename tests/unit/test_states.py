"""The table of arrows, and what people see of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from esteira.states import ARROWS, ENDED, RETRYABLE, SHOWN_STATES, TRANSITIONS, State, shown_state

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_table_names_every_transition_once_and_in_order() -> None:
    assert [t.code for t in TRANSITIONS] == [f"T{n}" for n in range(1, 16)]
    assert len({t.name for t in TRANSITIONS}) == 15


def test_every_state_can_be_reached_and_every_live_one_left() -> None:
    reached = {target for _, target in ARROWS}
    left = {source for source, target in ARROWS if source != target}

    assert reached == set(State)
    assert left >= {State.QUEUED, State.RUNNING}


def test_a_job_begins_queued_and_nowhere_else() -> None:
    assert [target for source, target in ARROWS if source is None] == [State.QUEUED]


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_only_an_operators_retry_leaves_an_end_state(ended: State) -> None:
    ways_out = {(t.code, target) for t in TRANSITIONS for source, target in t.arrows if source == ended}

    assert ways_out == ({("T13", State.QUEUED)} if ended in RETRYABLE else set())


def test_a_success_is_final() -> None:
    assert State.SUCCEEDED not in RETRYABLE
    assert not [target for source, target in ARROWS if source == State.SUCCEEDED]


def test_only_a_running_job_succeeds_or_dies() -> None:
    assert {s for s, t in ARROWS if t == State.SUCCEEDED} == {State.RUNNING}
    assert {s for s, t in ARROWS if t == State.DEAD} == {State.RUNNING}


@pytest.mark.parametrize(
    ("state", "failures", "seconds", "shown"),
    [
        ("queued", 0, 60, "scheduled"),
        ("queued", 2, 60, "retrying"),
        ("queued", 0, 0, "queued"),
        ("queued", 2, -1, "queued"),
        ("running", 2, 60, "running"),
        ("failed", 2, 60, "failed"),
    ],
)
def test_a_waiting_job_is_shown_by_why_it_waits(state: str, failures: int, seconds: int, shown: str) -> None:
    run_at = NOW + timedelta(seconds=seconds)

    assert shown_state(state, failures=failures, run_at=run_at, now=NOW) == shown
    assert shown in SHOWN_STATES
