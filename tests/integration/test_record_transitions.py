"""Whatever is done to a job, in whatever order: only arrows of the table, drawn by whoever may."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from esteira.db import PrivateConnection
from esteira.record.claim import Claimed, claim, expire, refuse, unpublish_unclaimed
from esteira.record.finish import Outcome, finish
from esteira.record.lease import Break, break_off, extend, hand_back, kill
from esteira.record.operate import cancel, retry
from esteira.record.publish import unpublish
from esteira.record.rescue import MAX_SUSPICION, drained, leases_ended, process_lost, worker_restarted
from esteira.record.telling import progress, start
from esteira.record.waiting import publish_due
from esteira.states import ENDED, TRANSITIONS
from tests.support.jobs import TYPE, elapse, kinds, look, outcome, stored, version

ARROWS_OF = {t.code: t.arrows for t in TRANSITIONS}
#: Events that every off-path arrival in a state leaves.
TOLD = {"failed", "dead", "cancelled"}


def test_random_records_on_one_job_draw_only_legal_arrows(core: PrivateConnection) -> None:
    OneJob.core = core
    run_state_machine_as_test(
        OneJob,
        settings=hypothesis_settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class OneJob(RuleBasedStateMachine):
    """Does things to one job, and looks at its row before and after each."""

    core: PrivateConnection

    def __init__(self) -> None:
        super().__init__()
        self.core.fetch("TRUNCATE esteira_job CASCADE")
        (self.id,) = stored(self.core, max_failures=3, publish=True)
        self.row = look(self.core, self.id)

    def do(self, act: Callable[[], object], *codes: str, attempt: int | None = None) -> None:
        """Act, and check that the job moved along an arrow of these transitions, or not at all."""
        before, was = version(self.core, self.id), self.row

        act()

        self.row = row = look(self.core, self.id)
        moved = version(self.core, self.id) != before
        arrows = {arrow for code in codes for arrow in ARROWS_OF[code]}
        assert row.state == was.state or (was.state, row.state) in arrows, (
            f"{was.state} -> {row.state} by {codes}"
        )
        assert not moved or was.state not in ENDED or "T13" in codes, f"{codes} wrote to an ended job"
        assert not moved or attempt in (None, was.attempt), (
            f"{codes} wrote for attempt {attempt} of {was.attempt}"
        )
        assert row.attempt == was.attempt + (was.state == "queued" and row.state == "running")
        if row.state != was.state and row.state in TOLD:
            assert kinds(self.core, self.id)[-1] == row.state

    def mine(self, stale: bool) -> int:
        return self.row.attempt - stale

    def claimed(self, stale: bool) -> Claimed:
        return SimpleNamespace(id=self.id, attempt=self.mine(stale))  # type: ignore[return-value]

    @rule()
    def wait(self) -> None:
        """Let every delay and hold be over."""
        self.core.fetch(
            """UPDATE esteira_job SET hold_until = NULL,
                 run_at = least(run_at, clock_timestamp() - interval '1 second')
               WHERE state = 'queued' AND id = %s""",
            [self.id],
        )
        self.row = look(self.core, self.id)

    @rule()
    @precondition(lambda self: self.row.state == "running")
    def lease_ends(self) -> None:
        elapse(self.core, self.id, "lease_until")
        self.do(lambda: leases_ended(self.core), "T8")

    @rule()
    @precondition(lambda self: self.row.state == "queued" and self.row.attempt % 5 == 4)
    def time_is_over(self) -> None:
        self.core.fetch("UPDATE esteira_job SET expires_at = clock_timestamp() WHERE id = %s", [self.id])
        self.do(lambda: expire(self.core), "T15")

    @rule()
    def is_published(self) -> None:
        self.do(
            lambda: publish_due(self.core, queue="default", types=[TYPE], priorities=[3, 6, 9], limit=5), "T2"
        )

    @rule()
    def hint_is_missing(self) -> None:
        stamps = [
            row[0] for row in self.core.fetch("SELECT published_at FROM esteira_job WHERE id = %s", [self.id])
        ]
        self.do(lambda: unpublish(self.core, [self.id], stamps), "T2")

    @rule(copies=st.integers(min_value=1, max_value=2))
    def is_claimed(self, copies: int) -> None:
        self.do(
            lambda: claim(self.core, [self.id] * copies, worker="w1/boot", delivery="d"), "T3", "T14", "T15"
        )

    @rule()
    def is_claimed_in_a_batch(self) -> None:
        others = stored(self.core, 2)
        self.do(
            lambda: claim(self.core, [*others, self.id], worker="w1/boot", delivery="d"), "T3", "T14", "T15"
        )

    @rule()
    def is_settled(self) -> None:
        self.do(lambda: unpublish_unclaimed(self.core, [self.id], hold_s=1), "T14", "T15")

    @rule(stale=st.booleans())
    def is_refused(self, stale: bool) -> None:
        attempt = self.mine(stale)
        self.do(lambda: refuse(self.core, [(self.id, attempt, "why")], worker="w"), "T14", attempt=attempt)

    @rule(
        stale=st.booleans(), kind=st.sampled_from(["succeeded", "failed", "failed", "given_up", "cancelled"])
    )
    def ends(self, stale: bool, kind: str) -> None:
        end: Outcome = outcome(self.claimed(stale), kind)
        self.do(lambda: finish(self.core, [end]), "T5" if kind == "succeeded" else "T6", attempt=end.attempt)

    @rule(stale=st.booleans())
    def lives_on(self, stale: bool) -> None:
        attempt = self.mine(stale)
        self.do(lambda: extend(self.core, [(self.id, attempt)]), "T4", attempt=attempt)
        self.do(lambda: start(self.core, self.id, attempt, 0.1), "T4", attempt=attempt)
        self.do(lambda: progress(self.core, self.id, attempt, 1, 2, "on"), "T4", attempt=attempt)

    @rule(stale=st.booleans(), solo=st.booleans())
    def is_handed_back(self, stale: bool, solo: bool) -> None:
        attempt = self.mine(stale)
        self.do(lambda: hand_back(self.core, [(self.id, attempt)], solo=solo), "T10", attempt=attempt)

    @rule(stale=st.booleans())
    def is_broken_off(self, stale: bool) -> None:
        cause = Break(reason="connection lost", type="ConnectionLost", message="It was cut.")
        attempt = self.mine(stale)
        self.do(lambda: break_off(self.core, self.id, attempt, cause), "T10", attempt=attempt)

    @rule(stale=st.booleans())
    def is_killed(self, stale: bool) -> None:
        attempt = self.mine(stale)
        self.do(lambda: kill(self.core, self.id, attempt), "T12", attempt=attempt)

    @rule()
    def process_dies(self) -> None:
        self.do(lambda: process_lost(self.core, "d"), "T7")

    @rule()
    def worker_restarts(self) -> None:
        self.do(lambda: worker_restarted(self.core, incarnation="boot"), "T9")

    @rule()
    def worker_drains(self) -> None:
        self.do(lambda: drained(self.core, me="w1/boot"), "T10")

    @rule(force=st.booleans())
    def is_cancelled(self, force: bool) -> None:
        self.do(lambda: cancel(self.core, self.id, by="ana", force=force), "T11", "T12")

    @rule()
    @precondition(lambda self: self.row.state in ENDED)
    def is_retried(self) -> None:
        self.do(lambda: retry(self.core, self.id, by="ana"), "T13")

    @invariant()
    def counts_stay_within_their_limits(self) -> None:
        row = self.row
        assert row.suspicion < MAX_SUSPICION or row.state in ENDED
        assert row.failures < row.max_failures or row.state in ENDED
        assert row.failures <= row.attempt

    @invariant()
    def only_a_running_job_has_a_worker_and_a_lease(self) -> None:
        row = self.row
        assert ((row.worker, row.lease_until) != (None, None)) == (row.state == "running")
        assert (row.finished_at is not None) == (row.state in ENDED)
