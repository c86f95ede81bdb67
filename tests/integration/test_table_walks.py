"""Trails and walks: every moment is visited, whatever is slow, late, locked or put back."""

from __future__ import annotations

import math
from uuid import UUID

import pytest

from esteira.db import Db, PrivateConnection
from esteira.db.walk import LOST_TRAIL_S, Survey, Trail, Walk
from esteira.keeper.hold import Hold
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.turns import Turns
from esteira.record.claim import claim
from esteira.record.lease import extend
from tests.support.jobs import elapse, look, running, stored
from tests.support.waiting import until

#: Moments between these two are dense: to read one second of them takes so long.
DENSE_FROM, DENSE_TO, SECOND_S = 1000.0, 1200.0, 0.003


class Visitor:
    """Notes what it visited, and takes its time where the index is dense."""

    def __init__(self, left: int = 0, seconds: float = 0.0) -> None:
        self.visits: list[tuple[float, float]] = []
        self._left, self._seconds = left, seconds

    def __call__(self, db: Db, after: float, until: float) -> bool:
        dense_s = max(0.0, min(until, DENSE_TO) - max(after, DENSE_FROM))
        db.fetch("SELECT pg_sleep(%s)", [dense_s * SECOND_S + self._seconds])
        self._left -= 1
        if self._left < 0:
            self.visits.append((after, until))
        return self._left >= 0

    def assert_without_gap(self) -> None:
        for later, earlier in zip(self.visits, self.visits[1:], strict=False):
            assert earlier[1] == later[0]


def test_a_trail_visits_each_moment_once(core: PrivateConnection) -> None:
    visitor = Visitor()
    trail = Trail(visitor, delay_s=1)

    assert all(trail.step(core, now) for now in (100.0, 100.5, 102.0, 102.0, 103.0))

    assert visitor.visits == [(99.0, 99.5), (99.5, 101.0), (101.0, 101.0), (101.0, 102.0)]


def test_a_trail_comes_back_for_what_a_visit_left(core: PrivateConnection) -> None:
    visitor = Visitor(left=1)
    trail = Trail(visitor, delay_s=0)

    assert all(trail.step(core, now) for now in (100.0, 101.0, 102.0))

    assert visitor.visits == [(100.0, 102.0)]


def test_a_trail_that_was_left_behind_says_that_a_walk_is_needed(core: PrivateConnection) -> None:
    trail = Trail(Visitor(), delay_s=0)
    trail.step(core, 100.0)

    assert trail.step(core, 101.0 + LOST_TRAIL_S) is False
    assert trail.step(core, 102.0 + LOST_TRAIL_S) is True


def test_a_trail_that_takes_too_long_says_that_a_walk_is_needed() -> None:
    hasty = PrivateConnection("hasty", timeout_s=0.05)
    trail = Trail(Visitor(), delay_s=0)
    trail.step(hasty, DENSE_FROM)

    assert trail.step(hasty, DENSE_FROM + 50) is False
    assert trail.step(hasty, DENSE_FROM + 51) is True
    hasty.close()


def test_a_walk_that_cannot_read_all_at_once_reads_all_in_slices(core: PrivateConnection) -> None:
    visitor = Visitor()
    walk = Walk(visitor)

    until(lambda: walk.step(core, DENSE_TO, end=math.inf) or walk.been_through, "the walk is through")

    assert (visitor.visits[0][1], visitor.visits[-1][0]) == (math.inf, -math.inf)
    visitor.assert_without_gap()


def test_a_walk_over_a_slow_server_takes_longer_slices_at_last(core: PrivateConnection) -> None:
    slow = Visitor(seconds=0.3)
    walk = Walk(slow)

    until(lambda: walk.step(core, DENSE_TO) or slow.visits, "a slice is visited")


def test_a_walk_over_a_slow_server_asks_for_no_moment_that_postgresql_does_not_know(
    core: PrivateConnection, sparse: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every statement is slow, slices grow by little, and one before the other they pass the year 4713 BC."""
    monkeypatch.setattr("esteira.db.walk.SLOW_S", 0.0)
    sparse._left = 1
    walk = Walk(sparse)

    until(lambda: [walk.step(core, 1.8e9)] and walk.been_through, "the walk is through")

    assert min(after for after, _ in sparse.visits if after != -math.inf) >= 0
    sparse.assert_without_gap()


def test_a_walk_begins_again_after_a_rest(core: PrivateConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esteira.db.walk.RESTS", 2)
    visitor = Visitor()
    walk = Walk(visitor)
    until(lambda: walk.step(core, DENSE_TO) or walk.been_through, "the walk is through")
    first = len(visitor.visits)

    walk.step(core, DENSE_TO)
    assert len(visitor.visits) == first
    until(
        lambda: walk.step(core, DENSE_TO) or [v for v in visitor.visits[first:] if v[0] == -math.inf],
        "a second walk is through",
    )

    visitor.visits = visitor.visits[first:]
    visitor.assert_without_gap()
    assert visitor.visits[0][1] == DENSE_TO


def test_a_walk_stays_where_a_visit_left_something(core: PrivateConnection) -> None:
    visitor = Visitor(left=2)
    walk = Walk(visitor)

    assert [walk.step(core, 10.0) for _ in range(3)] == [True, True, False]
    until(lambda: walk.step(core, 10.0) or walk.been_through, "the walk is through")
    assert visitor.visits[0][1] == 10.0
    visitor.assert_without_gap()


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> Visitor:
    """An index that is nowhere dense."""
    monkeypatch.setattr(f"{__name__}.SECOND_S", 0.0)
    return Visitor()


def test_while_a_walk_sees_everything_at_once_its_trails_rest_and_miss_nothing_later(
    core: PrivateConnection, sparse: Visitor
) -> None:
    survey = Survey(sparse, delay_s=1)
    until(lambda: survey.step(core, 100.0) or survey.walk.at_once, "a walk is quick")
    sparse.visits.clear()

    survey.step(core, 101.0)
    survey.walk.at_once = False
    survey.walk._rests_until = math.inf
    survey.step(core, 102.0)

    assert sparse.visits == [(-math.inf, math.inf), (100.0, 101.0)]


def test_a_walk_that_suddenly_takes_long_is_no_failure_and_has_a_limit_again(
    core: PrivateConnection, sparse: Visitor
) -> None:
    survey = Survey(sparse, delay_s=1)
    until(lambda: survey.step(core, 100.0) or survey.walk.at_once, "a walk is quick")
    hasty = PrivateConnection("hasty", timeout_s=0.3)
    sparse._seconds = 1.0

    survey.step(hasty, 101.0)

    assert not survey.walk.at_once
    hasty.close()


# --- what the keeper makes of them ------------------------------------------------------------------------------------


def swept(rescuer: Rescuer, core: PrivateConnection) -> int:
    """Step while nothing holds rescues."""
    return rescuer.step(core, Hold().look(core, Turns(), was_away=False))


def rescued(rescuer: Rescuer, core: PrivateConnection, job_id: UUID) -> bool:
    swept(rescuer, core)
    return bool(look(core, job_id).state == "queued")


def test_a_lease_that_ends_while_it_is_watched_is_rescued(core: PrivateConnection) -> None:
    rescuer = Rescuer()
    swept(rescuer, core)
    dead = running(core, lease_s=1)[0]

    until(lambda: rescued(rescuer, core, dead.id), "the job is rescued")


def test_a_lease_that_is_extended_while_it_is_watched_is_left_alone(core: PrivateConnection) -> None:
    rescuer = Rescuer()
    dead, alive = running(core, lease_s=1)[0], running(core, lease_s=1)[0]
    swept(rescuer, core)

    def step() -> bool:
        extend(core, [(alive.id, 1)])
        return rescued(rescuer, core, dead.id)

    until(step, "the other is rescued")
    assert look(core, alive.id).state == "running"


def test_a_row_that_is_locked_is_rescued_later(core: PrivateConnection) -> None:
    rescuer, other = Rescuer(), PrivateConnection("other")
    dead = running(core)[0]
    elapse(core, dead.id, "lease_until")
    with other.transaction():
        other.fetch("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [dead.id])
        assert not rescued(rescuer, core, dead.id)
    other.close()

    assert rescued(rescuer, core, dead.id)


def test_a_claim_that_was_committed_late_is_found(core: PrivateConnection) -> None:
    rescuer, other = Rescuer(), PrivateConnection("other")
    (job_id,) = stored(core, lease_s=1)
    with other.transaction():
        claim(other, [job_id], worker="w1/boot", delivery="d")
        seen = rescuer._claims._trails[0]
        until(
            lambda: swept(rescuer, core) == 0 and seen._floor and seen._floor > _claimed(other, job_id),
            "the trail has passed the claim",
        )
    other.close()

    until(lambda: rescued(rescuer, core, job_id), "the job is rescued")


def _claimed(db: Db, job_id: UUID) -> float:
    return float(
        db.fetch("SELECT extract(epoch FROM claimed_at)::float8 FROM esteira_job WHERE id = %s", [job_id])[0][
            0
        ]
    )


def test_after_the_clock_was_put_back_the_dead_do_not_wait_for_the_old_time(core: PrivateConnection) -> None:
    rescuer = Rescuer()
    dead, alive = running(core, lease_s=1)[0], running(core, lease_s=1)[0]
    for job in (dead, alive):
        for column in ("lease_until", "claimed_at"):
            elapse(core, job.id, column, -3600)

    def step() -> bool:
        extend(core, [(alive.id, 1)])
        return rescued(rescuer, core, dead.id)

    until(step, "the dead is rescued")
    assert look(core, alive.id).state == "running"


def test_a_keeper_notices_a_clock_that_was_put_back(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescuer = Rescuer()
    swept(rescuer, core)
    rescuer._clock._seen += 3600
    monkeypatch.setattr(rescuer.walk, "_rests_until", math.inf)
    dead = running(core)[0]
    elapse(core, dead.id, "lease_until")
    elapse(core, dead.id, "claimed_at", 100)

    assert rescued(rescuer, core, dead.id)


def test_what_comes_back_to_the_queue_after_its_expiry_ends(core: PrivateConnection) -> None:
    expirer = Expirer()
    (job,) = running(core, expires_in_s=3600)
    elapse(core, job.id, "expires_at", 7200)
    expirer.step(core)

    core.fetch(
        "UPDATE esteira_job SET state = 'queued', worker = NULL, lease_until = NULL WHERE id = %s", [job.id]
    )

    until(lambda: expirer.step(core) and look(core, job.id).state == "expired", "the job has expired")


def test_many_that_expire_at_once_all_end(core: PrivateConnection) -> None:
    expirer = Expirer()
    for _ in range(3):
        stored(core, 1000, expires_in_s=0.001)

    until(
        lambda: (
            [expirer.step(core)]
            and core.fetch("SELECT count(*) FROM esteira_job WHERE state <> 'expired'") == [(0,)]
        ),
        "all have expired",
    )
