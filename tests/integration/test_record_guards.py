"""The database itself refuses what the table of arrows does not hold, and shows what Python shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from esteira.db import PrivateConnection
from esteira.models import Job, JobEvent, Schedule
from esteira.record import operate
from esteira.record.insert import insert
from esteira.states import ARROWS, ENDED, SHOWN_STATE_SQL, SHOWN_STATES, TRANSITIONS, State, shown_state
from tests.support.jobs import TYPE, elapse, ended, look, new, running, schedule, stored

PAIRS = [(old, new) for old, new in product(State, State) if old != new]
(BY_OPERATOR,) = (transition.arrows for transition in TRANSITIONS if transition.code == "T13")

# Moves a job with everything else in order, so that only the arrow can be wrong.
MOVE = """
UPDATE esteira_job SET state = %(state)s::text,
  attempt = attempt + (%(state)s::text = 'running')::int,
  worker = CASE WHEN %(state)s::text = 'running' THEN 'w' END,
  lease_until = CASE WHEN %(state)s::text = 'running' THEN clock_timestamp() END,
  claimed_at = clock_timestamp(),
  finished_at = CASE WHEN %(state)s::text NOT IN ('queued', 'running') THEN clock_timestamp() END,
  result = CASE WHEN %(state)s::text = 'succeeded' THEN '1'::jsonb END,
  error = '{"message": "m"}' WHERE id = %(id)s"""


def put(core: PrivateConnection, state: State) -> UUID:
    if state == State.RUNNING:
        return running(core)[0].id
    (job,) = stored(core)
    if state in ENDED:
        ended(core, job, state)
    return job


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_the_database_draws_the_same_arrows_as_the_table(
    core: PrivateConnection, old: State, new: State
) -> None:
    job = put(core, old)

    try:
        core.fetch(MOVE, {"state": new, "id": job})
        drawn = True
    except psycopg.errors.IntegrityError as refusal:
        drawn = False
        assert f"{old} (attempt" in str(refusal) and "no legal transition" in str(refusal)

    assert drawn == ((old, new) in ARROWS - BY_OPERATOR)
    assert look(core, job).state == (new if drawn else old)


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in PAIRS if old in ENDED])
def test_only_an_operators_transaction_opens_the_way_out_of_an_end(
    core: PrivateConnection, old: State, new: State
) -> None:
    job = put(core, old)

    with core.transaction():
        core.fetch("SELECT set_config('esteira.transition', 'T13', true)")
        if (old, new) in BY_OPERATOR:
            core.fetch(MOVE, {"state": new, "id": job})
        else:
            with pytest.raises(psycopg.errors.IntegrityError), core.transaction():
                core.fetch(MOVE, {"state": new, "id": job})

    assert look(core, job).state == (new if (old, new) in BY_OPERATOR else old)


IMPOSSIBLE = {
    "a state that does not exist": ("queued", "state = 'paused'"),
    "a priority that does not exist": ("queued", "priority = 4"),
    "a running job without a lease": ("running", "lease_until = NULL"),
    "a running job without a worker": ("running", "worker = NULL"),
    "a running job that nobody claimed": ("running", "claimed_at = NULL"),
    "a waiting job with a lease": ("queued", "lease_until = clock_timestamp()"),
    "a waiting job with a worker": ("queued", "worker = 'w'"),
    "a waiting job that has ended": ("queued", "finished_at = clock_timestamp()"),
    "an ended job without an end": ("succeeded", "finished_at = NULL"),
    "a failure without a reason": ("failed", "error = NULL"),
    "a dead job without a reason": ("dead", "error = NULL"),
    "a result of what did not succeed": ("failed", "result = '1'"),
    "a result of what still runs": ("running", "result = '1'"),
    "more failures than attempts": ("queued", "failures = 1"),
    "less than no suspicion": ("queued", "suspicion = -1"),
    "an attempt that falls": ("running", "attempt = attempt - 1"),
    "an attempt that rises without a claim": ("running", "attempt = attempt + 1"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_the_database_refuses(core: PrivateConnection, what: str) -> None:
    state, change = IMPOSSIBLE[what]
    job = put(core, State(state))

    with pytest.raises(psycopg.errors.IntegrityError):
        core.fetch(f"UPDATE esteira_job SET {change} WHERE id = %s", [job])


def test_the_database_refuses_a_claim_that_does_not_count_its_attempt(core: PrivateConnection) -> None:
    (job,) = stored(core)

    with pytest.raises(psycopg.errors.IntegrityError, match="no legal transition"):
        core.fetch(
            """UPDATE esteira_job SET state = 'running', worker = 'w', claimed_at = clock_timestamp(),
                 lease_until = clock_timestamp() WHERE id = %s""",
            [job],
        )


def test_the_database_refuses_a_second_job_for_a_tick_a_key_or_a_turn(core: PrivateConnection) -> None:
    nightly = schedule(core)
    ticks = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    insert(
        core, [new(schedule_id=nightly, tick_at=tick, in_turn=True, unique_key=str(tick)) for tick in ticks]
    )
    (first, *_) = [row[0] for row in core.fetch("SELECT id FROM esteira_job ORDER BY tick_at")]

    with pytest.raises(psycopg.errors.UniqueViolation, match="job_one_per_tick"):
        core.fetch("UPDATE esteira_job SET tick_at = %s", [ticks[0]])
    with pytest.raises(psycopg.errors.UniqueViolation, match="job_unique_key"):
        core.fetch("UPDATE esteira_job SET unique_key = 'k'")
    core.fetch(MOVE, {"state": "running", "id": first})
    with pytest.raises(psycopg.errors.UniqueViolation, match="job_one_in_turn"):
        core.fetch(MOVE.replace("WHERE id = %(id)s", "WHERE id <> %(id)s"), {"state": "running", "id": first})


def test_there_is_one_keepers_row(core: PrivateConnection) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        core.fetch("INSERT INTO esteira_keeper (id) VALUES (2)")


@pytest.fixture(scope="module")
def lasting(django_db_setup: None, django_db_blocker: object) -> Iterator[PrivateConnection]:
    """A connection for all examples of a property; it touches no rows."""
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        core = PrivateConnection("properties")
        yield core
        core.close()


@given(
    state=st.sampled_from(list(State)),
    failures=st.integers(min_value=0, max_value=3),
    offset=st.integers(min_value=-(10**7), max_value=10**7).filter(bool),
)
@hypothesis_settings(max_examples=200)
def test_sql_and_python_show_the_same_state(
    lasting: PrivateConnection, state: State, failures: int, offset: int
) -> None:
    in_sql, run_at, now = lasting.fetch(
        f"""SELECT {SHOWN_STATE_SQL}, run_at, clock_timestamp() FROM (
              VALUES (%s::text, %s::int, clock_timestamp() + %s * interval '1 second')
            ) AS j(state, failures, run_at)""",
        [state, failures, offset],
    )[0]

    assert in_sql == shown_state(state, failures=failures, run_at=run_at, now=now)
    assert in_sql in SHOWN_STATES


def test_a_delayed_job_that_is_due_by_now_is_shown_as_queued(core: PrivateConnection) -> None:
    """However its row was read: no way judges by another clock than the database's."""
    (job,) = stored(core, delay_s=60.0, schedule_id=schedule(core))
    operate.cancel(core, stored(core)[0], by="ana", force=False)
    core.fetch("UPDATE esteira_jobevent SET job_id = %s", [job])
    for moment in ("created_at", "run_at"):
        elapse(core, job, moment)

    ways = {
        "by its id": Job.objects.get(pk=job),
        "in a list": Job.objects.filter(type=TYPE).order_by("created_at")[0],
        "from its event": JobEvent.objects.get().job,
        "from its schedule": Schedule.objects.get().job_set.get(),
    }

    assert {way: read.shown_state for way, read in ways.items()} == dict.fromkeys(ways, "queued")


def test_a_job_that_was_never_read_has_no_shown_state() -> None:
    with pytest.raises(AttributeError, match="db_now"):
        _ = Job(type=TYPE).shown_state
