"""For tests (`esteira.testing`): time passes for the jobs that wait, without waiting for it. It changes no state."""

from __future__ import annotations

from esteira.db import Db

_EARLIER = """
UPDATE esteira_job j SET created_at = j.created_at - span, run_at = j.run_at - span,
  expires_at = j.expires_at - span, hold_until = j.hold_until - span, refused_since = j.refused_since - span
FROM (SELECT %(seconds)s * interval '1 second' AS span) v
WHERE j.state = 'queued'
"""


def let_pass(db: Db, seconds: float) -> None:
    """Move every moment of the waiting jobs into the past, as if so much time had passed since they were submitted."""
    db.fetch(_EARLIER, {"seconds": float(seconds)})
