"""A history of jobs as an installation has after 30 days, made by one statement: what lists are measured and tested on.

97 of 100 have succeeded; few have failed, were cancelled or expired, wait, run, are scheduled or retried; those that
died are all among the oldest tenth. 20 types have shares of 1/2, 1/4, 1/8 and so on.
"""

from __future__ import annotations

from typing import Any

import psycopg

from esteira import ids

TYPES = tuple(f"bench.type{number:02}" for number in range(20))
QUEUES = ("default", "mail", "reports", "bulk", "rare")

_HISTORY = f"""
INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, state,
  created_at, run_at, attempt, failures, worker, delivery, lease_until, claimed_at, started_at, finished_at, result,
  error, submitted_by)
SELECT {ids.of_job("r.at", "gen_random_uuid()")},
  (%(types)s::text[])[1 + r.kind],
  jsonb_build_object('number', r.i, 'to', 'somebody' || r.i || '@example.com', 'text', repeat('x', 60)),
  (%(queues)s::text[])[1 + r.kind %% 5], CASE WHEN r.kind %% 4 = 3 THEN 3 ELSE 6 END, 4, 2, 10, 600,
  CASE WHEN r.shown IN ('scheduled', 'retrying') THEN 'queued' ELSE r.shown END, r.at,
  CASE r.shown WHEN 'scheduled' THEN clock_timestamp() + interval '10 days' + r.share * interval '1 day'
    WHEN 'retrying' THEN clock_timestamp() + interval '1 day' ELSE r.at END,
  r.ran::int, CASE WHEN r.shown IN ('retrying', 'failed') THEN 1 ELSE 0 END,
  CASE WHEN r.shown = 'running' THEN 'bench/none' END, CASE WHEN r.shown = 'running' THEN 'none' END,
  CASE WHEN r.shown = 'running' THEN clock_timestamp() + interval '1 day' END,
  CASE WHEN r.ran THEN r.at END, CASE WHEN r.ran THEN r.at END,
  CASE WHEN r.shown IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired') THEN r.at + interval '1 second' END,
  CASE WHEN r.shown = 'succeeded' THEN jsonb_build_object('sent', true, 'seconds', r.share) END,
  CASE WHEN r.shown IN ('failed', 'dead', 'retrying') THEN jsonb_build_object('kind', 'exception', 'type',
    'ValueError', 'message', 'It broke.', 'traceback', repeat('File "jobs/work.py", line 12, in work ', 8)) END,
  'somebody'
FROM (
  SELECT m.*, m.shown NOT IN ('queued', 'scheduled', 'cancelled', 'expired') AS ran FROM (
    SELECT i, share, least(19, floor(-ln(1 - kind) / ln(2)))::int AS kind,
      clock_timestamp() - (%(jobs)s + 1 - i) * interval '30 days' / %(jobs)s AS at,
      CASE WHEN share < 0.012 THEN 'failed' WHEN share < 0.016 THEN 'cancelled' WHEN share < 0.018 THEN 'expired'
        WHEN share < 0.024 THEN 'scheduled' WHEN share < 0.0245 THEN 'retrying' WHEN share < 0.0285 THEN 'queued'
        WHEN share < 0.0287 THEN 'running' WHEN share < 0.03 AND i < %(jobs)s / 10 THEN 'dead'
        ELSE 'succeeded' END AS shown
    FROM (SELECT i, random() AS share, random() AS kind FROM generate_series(1, %(jobs)s) AS i OFFSET 0) AS drawn
  ) AS m) AS r"""
_WAITING = f"""
INSERT INTO esteira_job (id, created_at, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s,
  run_at)
SELECT {ids.of_job("r.at", "gen_random_uuid()")}, r.at, %(type)s, '{{}}', %(queue)s, 6, 4, 2, 10, 600, r.at
FROM (SELECT clock_timestamp() AS at FROM generate_series(1, %(jobs)s)) AS r"""


def past(connection: psycopg.Connection[Any], jobs: int) -> None:
    """Add a history of so many jobs, of the last 30 days."""
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")  # no guard looks at each row
        connection.execute(_HISTORY, {"jobs": jobs, "types": list(TYPES), "queues": list(QUEUES)})


def waiting(
    connection: psycopg.Connection[Any], jobs: int, *, type: str = TYPES[0], queue: str = "default"
) -> None:
    """Add so many jobs that were submitted now, and wait."""
    connection.execute(_WAITING, {"jobs": jobs, "type": type, "queue": queue})
