"""SQL that reads the rows that wait or run through the indexes of the feed and of claims, for lists of few of them.

Each statement reads `cap` rows at most, in its index's own order, and says of each whether it fits. Those that wait and
have no hint stand in one range of an index for each queue, priority, type and "in turn or not" (a kind), with what is
due first; they are gone through from kind to kind.
"""

from __future__ import annotations

_SEEN = """
seen AS MATERIALIZED (
  SELECT j.created_at, j.id, {{fits}} AS fits FROM esteira_job j
  WHERE {rows} ORDER BY {order} LIMIT %(cap)s)"""

RUNNING = _SEEN.format(rows="j.state = 'running'", order="j.claimed_at")
PUBLISHED = _SEEN.format(
    rows="j.state = 'queued' AND j.published_at IS NOT NULL", order="j.published_at, j.id"
)

# The clock is read once, because only a value that stands still can be the end of an index range.
_KINDS = """
clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
kinds AS (
  (SELECT j.queue, j.priority, j.type, j.in_turn FROM esteira_job j
   WHERE j.state = 'queued' AND j.published_at IS NULL
   ORDER BY j.queue, j.priority, j.type, j.in_turn LIMIT 1)
  UNION ALL
  SELECT next.queue, next.priority, next.type, next.in_turn FROM kinds k CROSS JOIN LATERAL (
    SELECT j.queue, j.priority, j.type, j.in_turn FROM esteira_job j
    WHERE j.state = 'queued' AND j.published_at IS NULL
      AND (j.queue, j.priority, j.type, j.in_turn) > (k.queue, k.priority, k.type, k.in_turn)
    ORDER BY j.queue, j.priority, j.type, j.in_turn LIMIT 1) AS next)"""
_RANGE = """j.state = 'queued' AND j.published_at IS NULL AND j.queue = k.queue AND j.priority = k.priority
       AND j.type = k.type AND j.in_turn = k.in_turn"""

UNPUBLISHED = f"""{_KINDS},
seen AS MATERIALIZED (
  SELECT due.created_at, due.id, due.fits FROM kinds k CROSS JOIN LATERAL (
    SELECT j.created_at, j.id, {{fits}} AS fits FROM esteira_job j
    WHERE {_RANGE} AND j.run_at <= (SELECT now FROM clock)
    ORDER BY j.run_at, j.id LIMIT %(cap)s) AS due
  WHERE {{where}} LIMIT %(cap)s)"""

#: No row that waits without a hint, and was due when it was submitted, was submitted later than this, but before a key.
NEWEST_DUE = f"""{_KINDS}
SELECT max(due.run_at) + interval '1 second' FROM kinds k CROSS JOIN LATERAL (
  SELECT j.run_at FROM esteira_job j
  WHERE {_RANGE}
    AND j.run_at <= least((SELECT now FROM clock), %(before_at)s::timestamptz + interval '1 second')
  ORDER BY j.run_at DESC LIMIT 1) AS due
WHERE {{where}}"""
