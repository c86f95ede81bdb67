"""T8 and T15 as the keeper does them: rescue jobs whose lease ended, end those that were to start sooner."""

from __future__ import annotations

import logging

from esteira.db import Db
from esteira.hold import Calm
from esteira.record import claim, rescue

log = logging.getLogger("esteira.keeper")


def rescue_lost(db: Db, calm: Calm) -> int:
    """T8, for leases that can be judged; return how many jobs moved."""
    rescued = rescue.leases_ended(db, at=calm.at, longest_lease_s=calm.longest_lease_s, slack_s=calm.slack_s)
    if rescued:
        log.warning("rescued %s jobs whose lease ended", len(rescued))
    return len(rescued)


def expire(db: Db) -> int:
    """T15; return how many jobs moved."""
    return claim.expire(db)
