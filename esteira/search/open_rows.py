"""SQL for lists of waiting or running jobs, which are usually few: it uses the indexes of publishing and of claims.

Each statement reads `cap` rows at most, in its index's own order, and says of each whether it fits. Those that wait and
have no hint are in one range of an index for each list that the view esteira_backlog names (queue, priority, type, in
turn or not), with what is due first.
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

#: What every reader of the backlog begins with. The clock is read once, because only a value that stands still can be
#: the end of an index range.
LISTS = """
clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
lists AS MATERIALIZED (SELECT * FROM esteira_backlog)"""
#: The waiting jobs `j` of one of those lists, `k`: a range of the index job_to_publish, with due jobs first.
RANGE = """j.state = 'queued' AND j.published_at IS NULL AND j.queue = k.queue AND j.priority = k.priority
       AND j.type = k.type AND j.in_turn = k.in_turn"""

UNPUBLISHED = f"""{LISTS},
seen AS MATERIALIZED (
  SELECT due.created_at, due.id, due.fits FROM lists k CROSS JOIN LATERAL (
    SELECT j.created_at, j.id, {{fits}} AS fits FROM esteira_job j
    WHERE {RANGE} AND j.run_at <= (SELECT now FROM clock)
    ORDER BY j.run_at, j.id LIMIT %(cap)s) AS due
  WHERE {{where}} LIMIT %(cap)s)"""

#: No row that waits without a hint, and was due when it was submitted, was submitted later than this, but before a key.
NEWEST_DUE = f"""{LISTS}
SELECT max(due.run_at) + interval '1 second' FROM lists k CROSS JOIN LATERAL (
  SELECT j.run_at FROM esteira_job j
  WHERE {RANGE}
    AND j.run_at <= least((SELECT now FROM clock), %(before_at)s::timestamptz + interval '1 second')
  ORDER BY j.run_at DESC LIMIT 1) AS due
WHERE {{where}}"""
