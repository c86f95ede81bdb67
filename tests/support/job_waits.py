"""Ways to wait for what the jobs of a running stack do, whatever it is made of: processes or containers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from tests.support.observer import Observer
from tests.support.waiting import Stopwatch, until

#: How long the jobs of a test may go on without an end of one.
PATIENCE_S = 60 + int(os.environ.get("JOBS", "240")) / 20


class Watch:
    """What both kinds of stack can be asked; `db` looks at its database."""

    db: Observer

    def anybody(self) -> bool:
        """Whether anything runs that could end jobs."""
        return True

    def names_of(self, worker: str) -> str:
        """Return what the stored names of a worker begin with."""
        return f"{worker}@"

    def halfway(self, ids: Sequence[str], *victims: str, timeout: float = 60) -> list[UUID]:
        """Wait until a fifth of the jobs is done, a fifth is not, and each victim holds a lease.

        Return what the victims hold.
        """

        def now() -> list[UUID]:
            counts = self.db.counts(ids)
            waiting = counts.get("queued", 0) + counts.get("running", 0)
            done = len(ids) - waiting
            assert waiting >= len(ids) / 5, (
                f"too late: {done} of {len(ids)} are done; give the test more work"
            )
            held = [self.db.held_by(self.names_of(victim)) for victim in victims]
            if done < len(ids) / 5 or not all(held):
                return []
            return [one for each in held for one in each] or [UUID(int=0)]

        return until(now, f"a fifth of {len(ids)} jobs is done and {victims} hold leases", timeout=timeout)

    def wait_ended(self, ids: Sequence[str] | None = None, *, timeout: float = PATIENCE_S) -> None:
        """Wait until all jobs (or these) have ended; fail when none has for so long, or after ten times as long."""
        left, watch = math.inf, Stopwatch()

        def fewer() -> list[int]:
            counts = self.db.counts(ids)
            if not self.anybody():
                raise AssertionError("no worker or no beat is alive")
            now = counts.get("queued", 0) + counts.get("running", 0)
            return [now] if now < left else []

        try:
            while left:
                assert watch.seconds < 10 * timeout, f"not within {10 * timeout:g} s: all jobs have ended"
                (left,) = until(fewer, "another job has ended", timeout=timeout, every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.db.counts(ids)}\n{self.stragglers()}") from None

    def run_again(self, victims: Sequence[UUID], was: dict[UUID, int], *, timeout: float = 60) -> float:
        """Wait until each victim runs under a new attempt or has ended; return after how many seconds."""
        watch = Stopwatch()

        def all_again() -> bool:
            rows = self.db.fetch(
                "SELECT id, attempt, state FROM esteira_job WHERE id = ANY(%s)", [list(victims)]
            )
            return all(
                attempt > was[one] or state not in ("queued", "running") for one, attempt, state in rows
            )

        until(all_again, "the victims' jobs run again", timeout=timeout, every=0.02)
        return watch.seconds

    def flows_again(self, *, timeout: float = 60) -> float:
        """Wait until one more job has ended; return after how many seconds."""
        ended = "SELECT count(*) FROM esteira_job WHERE finished_at IS NOT NULL"
        before, watch = self.db.one(ended), Stopwatch()
        until(lambda: self.db.one(ended) > before, "jobs end again", timeout=timeout, every=0.02)
        return watch.seconds

    def until(self, condition: Callable[[], Any], what: str, *, timeout: float = 30) -> Any:
        return until(condition, what, timeout=timeout)

    def stragglers(self) -> str:
        rows = self.db.fetch(
            """SELECT id, type, state, attempt, failures, suspicion, worker, published_at, hold_until,
                 lease_until,
                 run_at, clock_timestamp() FROM esteira_job WHERE state IN ('queued', 'running') LIMIT 5"""
        )
        return "\n".join(str(tuple(map(str, row))) for row in rows)
