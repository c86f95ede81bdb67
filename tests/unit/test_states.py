"""The table of arrows, and that nobody but `esteira.record` draws one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esteira.states import ARROWS, ENDED, RETRYABLE, SHOWN_STATES, TRANSITIONS, State, allowed, shown_state

ROOT = Path(__file__).resolve().parents[2]
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
    assert [state for state in State if allowed(None, state)] == [State.QUEUED]


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_only_an_operators_retry_leaves_an_end_state(ended: State) -> None:
    ways_out = {(t.code, target) for t in TRANSITIONS if ended in t.source for target in t.target}

    assert ways_out == ({("T13", State.QUEUED)} if ended in RETRYABLE else set())


def test_a_success_is_final() -> None:
    assert State.SUCCEEDED not in RETRYABLE
    assert not [target for source, target in ARROWS if source == State.SUCCEEDED]


def test_only_a_running_job_succeeds_or_dies() -> None:
    assert {s for s, t in ARROWS if t == State.SUCCEEDED} == {State.RUNNING}
    assert {s for s, t in ARROWS if t == State.DEAD} == {State.RUNNING}


def test_every_transition_says_who_writes_it_and_under_which_guard() -> None:
    assert all(t.writer and t.guard and t.source and t.target for t in TRANSITIONS)


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


# An UPDATE of the job table, an ORM update() or an assignment that names `state`. Workers and schedules have
# states of their own, so the words around it must be a job's.
WRITES_STATE = re.compile(
    r"UPDATE\s+esteira_job\b(?!event|log)|INSERT\s+INTO\s+esteira_job\s|\bjob\.state\s*=[^=]|Job\.objects[^\n]*\.(update|create|bulk_)",
    re.IGNORECASE,
)


def test_no_statement_outside_record_changes_a_job() -> None:
    sources = [
        path
        for package in ("esteira", "web", "project", "jobs")
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts and path.parent != ROOT / "esteira" / "record"
    ]

    offenders = [
        f"{path.relative_to(ROOT)}: {found.group(0)!r}"
        for path in sources
        for found in WRITES_STATE.finditer(path.read_text())
    ]

    assert sources
    assert not offenders


def test_the_core_compares_stored_times_with_the_databases_clock_only() -> None:
    """`now()` is the start of a transaction, and a process's own clock may be an hour off."""
    wrong = re.compile(r"(?<![_\w])now\(\)|CURRENT_TIMESTAMP|transaction_timestamp", re.IGNORECASE)

    offenders = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "esteira" / "record").rglob("*.py")
        for line in path.read_text().splitlines()
        if wrong.search(line)
    ]

    assert not offenders
