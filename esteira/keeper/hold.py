"""Decide whether leases can be judged now: after an outage or a clock step, running processes may first extend theirs.

While the database was unavailable no process could extend a lease, and after a forward step of its clock every lease
looks as if it had ended. Rescues are then on hold until each running process had time to extend its leases: half a
lease. A step backward is the opposite case: after that time the leases of running processes are short again, and a
lease that ends later than one whole lease from now belongs to a process that has ended.

An active hold is never prolonged, and no hold begins before a whole lease has passed since the last one, so a keeper
with a faulty connection or clock cannot hold rescues forever. The same statement stores the result of the keeper's last
turn. If the process dies here, only a hold can be lost, and the next keeper's own check begins one.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from esteira.db import Db, Row
from esteira.job_types.registry import registry
from esteira.keeper.turns import Turns

#: A clock that differs by more than this share of a lease has stepped. A smaller difference is harmless, because each
#: lease is extended after a quarter of it has passed.
STEP_SHARE = 2
#: A keeper's report about its failing steps is removed when it was not renewed for this long.
FAILING_S = 60.0

_LOOK = """
WITH c AS MATERIALIZED (
  SELECT clock_timestamp() AS now, %(expected)s::timestamptz AS expected, %(lease)s * interval '1 second' AS lease,
    %(off)s * interval '1 second' AS off)
UPDATE esteira_keeper k SET
  hold_until = CASE
    WHEN k.hold_until > c.now THEN least(k.hold_until, c.now + c.lease / 2)
    WHEN k.database_started_at <> pg_postmaster_start_time() THEN c.now + c.lease / 2
    WHEN NOT (%(away)s OR coalesce(c.now NOT BETWEEN c.expected - c.off AND c.expected + c.off, false)
              OR coalesce(k.last_turn > c.now + c.off, false)) THEN k.hold_until
    WHEN k.hold_until IS NULL OR k.hold_until < c.now - c.lease OR k.hold_until > c.expected THEN c.now + c.lease / 2
    ELSE k.hold_until END,
  database_started_at = pg_postmaster_start_time(), last_turn = c.now,
  last_sweep = CASE WHEN %(whole)s THEN c.now ELSE k.last_sweep END,
  failing = (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each(k.failing) AS f
             WHERE f.key <> %(me)s
               AND (f.value->>'at')::timestamptz > c.now - %(failing_s)s * interval '1 second')
    || CASE WHEN %(steps)s::text = '{}' THEN '{}'
       ELSE jsonb_build_object(%(me)s::text, jsonb_build_object('at', c.now, 'steps', %(steps)s::text::jsonb)) END
FROM c WHERE k.id = 1
RETURNING c.now, coalesce(extract(epoch FROM c.now - k.hold_until + c.lease / 2), 'infinity')::float8
"""


@dataclass(frozen=True, kw_only=True)
class Calm:
    """When leases are judged, up to which length, and how far off the clock may have been without a hold."""

    at: datetime
    longest_lease_s: float
    slack_s: float


class Hold:
    """One keeper's checks of the clocks."""

    def __init__(self) -> None:
        self.now: datetime | None = None
        self._looked = 0.0
        #: When the first of a series of holds began, in seconds since 1970 by the database's clock.
        self._began: float | None = None

    def look(self, db: Db, turns: Turns, *, was_away: bool) -> Calm:
        """Store the result of the last turn, and return which leases can be judged.

        `was_away`: this keeper could not reach the database since its last check. Leases are to be judged at the
        returned moment: after a pause between this statement and the next one, a later moment would be wrong.
        """
        looked, lease_s = time.monotonic(), float(settings.ESTEIRA_LEASE_SECONDS)
        asked: dict[str, object] = {
            "expected": self.now + timedelta(seconds=looked - self._looked) if self.now else None,
            "lease": lease_s,
            "off": lease_s / STEP_SHARE,
            "away": was_away,
            "whole": turns.whole,
            "me": turns.me,
            "steps": json.dumps(turns.failing()),
            "failing_s": FAILING_S,
        }
        rows = db.fetch(_LOOK, asked) or self._first(db, asked)
        self.now, self._looked = rows[0][0], looked
        longest_s = self._longest_s(rows[0][0].timestamp(), calm_s=rows[0][1])
        return Calm(at=rows[0][0], longest_lease_s=longest_s, slack_s=lease_s / STEP_SHARE)

    def _longest_s(self, now: float, *, calm_s: float) -> float:
        """Return up to which length leases are judged, `calm_s` after the last hold began.

        Each lease needs half of its own length to be extended, because its process extends it every quarter of it.
        Leases longer than the ordinary one would wait forever if holds began again and again. So for them the first
        hold of a series counts, and the next series begins only after the longest lease of this release had its time
        twice.
        """
        if math.isinf(calm_s):
            return math.inf
        began, longest = now - calm_s, _longest_lease_s()
        if self._began is None or not 0 <= began - self._began <= 2 * longest:
            self._began = began
        if calm_s < settings.ESTEIRA_LEASE_SECONDS / 2:
            return 2 * calm_s
        return math.inf if now - self._began >= longest else 2 * (now - self._began)

    def _first(self, db: Db, asked: dict[str, object]) -> list[Row]:
        """Create the keeper's one row again after it was deleted."""
        db.fetch("INSERT INTO esteira_keeper (id) VALUES (1) ON CONFLICT DO NOTHING")
        return db.fetch(_LOOK, asked)


def _longest_lease_s() -> float:
    return max(
        [float(settings.ESTEIRA_LEASE_SECONDS), *(job_type.lease_s or 0.0 for job_type in registry.all())]
    )
