"""What every kind of installation shares that is broken under load: work that is caught in the middle, and goes on."""

from __future__ import annotations

import os
from uuid import UUID

from tests.support.remote_stack import RemoteStack
from tests.support.waiting import Stopwatch, until

#: Jobs that are under way when something breaks.
LOAD = int(os.environ.get("JOBS", "160"))
#: Beside a lease, from the moment when a part is back, or another can take over.
GRACE_S = 2.0
#: Emptied between two tests, with what refers to them; accounts, workers and schedules stay.
EMPTIED = "esteira_job, esteira_stat, esteira_file, esteira_idempotencykey, effect"


class UnderLoad(RemoteStack):
    """Workers hold jobs that are not about to end; then something breaks."""

    @property
    def lease_s(self) -> float:
        return float(self.settings["LEASE_SECONDS"])

    def catch(self, ids: list[str], *workers: str) -> dict[UUID, int]:
        """Wait until a fifth is done, a fifth is not, and each worker holds jobs that are not about to end.

        Return the attempts of those; they become part of `ids`.
        """
        self.halfway(ids, *map(str, workers))
        long = self.submit("effects.deaf", [{"seconds": 2}] * 6, priority="high")
        ids += long

        def held() -> list[list[UUID]]:
            each = [[one for one in self.held(worker) if str(one) in long] for worker in workers]
            return each if all(each) else []

        caught = until(held, f"{workers} hold long jobs", every=0.01)
        return self.db.attempts([one for each in caught for one in each])

    def held(self, worker: str) -> list[UUID]:
        return self.db.held_by(self.names_of(worker))

    def flows_again(self, *, timeout: float = 60) -> float:
        """Wait until a job that was claimed from now on has ended; return after how many seconds."""
        watch, now = Stopwatch(), self.db.one("SELECT clock_timestamp()")
        new = "SELECT EXISTS (SELECT 1 FROM esteira_job WHERE claimed_at > %s AND finished_at IS NOT NULL)"
        until(lambda: self.db.one(new, [now]), "jobs are claimed and end", timeout=timeout, every=0.02)
        return watch.seconds
