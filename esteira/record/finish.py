"""T5 succeed, T6 fail or retry: record the outcomes of attempts.

Every statement names the attempt, so a process whose job was claimed again changes nothing: this is the fence. It is
safe to repeat `finish` after a lost connection: a repeat that finds its own outcome recorded counts as recorded. It
skips a row that another transaction locks, and reports that. `complete` waits for the lock, and is never repeated,
because the job's effects depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from esteira.db import Db
from esteira.record import AT, NOTED, RUNNING, array, named

#: The kind of an outcome without an error.
SUCCEEDED = "succeeded"


# Not frozen: that would take three times as long to make, and each job makes one.
@dataclass(kw_only=True, slots=True)
class Outcome:
    """The outcome of one attempt. `kind`: succeeded, failed (may be tried again), given_up, cancelled.

    Offsets are seconds since the claim, measured by the process's monotonic clock.
    """

    id: UUID
    attempt: int
    kind: str
    started_s: float
    ended_s: float
    result: str | None = None
    error: str | None = None
    delay_s: float = 0.0
    files: bool = False


def _offset(name: str) -> str:
    """Return the moment of a row whose offset from its claim is in the list of this name, in µs."""
    return f"j.claimed_at + (%({name})s::bigint[])[at] * interval '1 microsecond'"


_SUCCEEDED = f"""state = 'succeeded', worker = NULL, lease_until = NULL, published_at = NULL,
    refused_since = NULL, interrupted = false, started_at = coalesce(j.started_at, {_offset("starts")}),
    finished_at = greatest({_offset("ends")}, j.claimed_at), result = (%(results)s::text[])[at]::jsonb, error = NULL"""

# The attempt is compared after the lock, when the place in the lists is known: finding it is most of this statement.
_SUCCEED = f"""
WITH locked AS MATERIALIZED (
  SELECT j.ctid AS place, j.attempt, {AT} AS at FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND {RUNNING}
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED)
UPDATE esteira_job j SET {_SUCCEEDED}
FROM locked WHERE j.ctid = locked.place AND locked.attempt = (%(attempts)s::int[])[at]
RETURNING j.id, 'succeeded'
"""

# For one attempt, which waits for a lock.
_COMPLETE = f"""
UPDATE esteira_job j SET {_SUCCEEDED.replace("[at]", "[1]")}
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = (%(attempts)s::int[])[1] AND {RUNNING}
RETURNING j.id, 'succeeded'
"""

_FAIL = f"""
WITH mine AS MATERIALIZED (
  SELECT j.id, j.ctid AS place, {AT} AS at, j.failures + 1 < j.max_failures AS more_tries,
    j.cancel_requested_at IS NOT NULL AS cancelled
  FROM esteira_job j
  WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = (%(attempts)s::int[])[{AT}] AND {RUNNING}
  ORDER BY j.id FOR NO KEY UPDATE OF j SKIP LOCKED),
v AS (
  SELECT mine.*, (%(kinds)s::text[])[at] AS kind, (%(errors)s::text[])[at] AS error,
    (%(delays)s::float8[])[at] AS delay_s
  FROM mine),
locked AS MATERIALIZED (
  SELECT v.*,
    CASE WHEN kind = 'cancelled' OR cancelled THEN 'cancelled'
         WHEN kind = 'failed' AND more_tries THEN 'queued'
         ELSE 'failed' END AS next
  FROM v),
moved AS (
  UPDATE esteira_job j SET state = locked.next, worker = NULL, lease_until = NULL,
    failures = j.failures + (locked.kind IN ('failed', 'given_up'))::int,
    started_at = coalesce(j.started_at, {_offset("starts")}),
    finished_at = CASE WHEN locked.next <> 'queued' THEN greatest({_offset("ends")}, j.claimed_at) END,
    run_at = CASE WHEN locked.next = 'queued'
      THEN clock_timestamp() + locked.delay_s * interval '1 second' ELSE j.run_at END,
    published_at = NULL, refused_since = NULL, interrupted = false,
    result = NULL, error = coalesce(locked.error::jsonb, j.error)
  FROM locked WHERE j.ctid = locked.place
  RETURNING j.id, j.attempt, locked.next, locked.error, locked.delay_s),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), CASE next WHEN 'queued' THEN 'retry_scheduled' ELSE next END, attempt, '', '',
    jsonb_build_object('error', error::jsonb) ||
    CASE next WHEN 'queued' THEN jsonb_build_object('delay_s', round(delay_s::numeric, 3)) ELSE '{{}}'::jsonb END
  FROM moved)
SELECT id, next FROM moved
"""


def finish(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    """T5, T6: record how attempts ended; return the recorded ids with the state each job is in now.

    "running": another transaction locks the row, so the write must be repeated. An id that is missing from the answer
    was refused: another attempt owns the job. For outcomes without effects only, because a repeat counts as recorded.
    """
    done = {
        **_succeed(db, [o for o in outcomes if o.kind == SUCCEEDED], _SUCCEED),
        **_fail(db, [o for o in outcomes if o.kind != SUCCEEDED]),
    }
    if len(done) == len(outcomes):
        return done
    return {**done, **what_became(db, [o for o in outcomes if o.id not in done])}


def complete(db: Db, outcome: Outcome) -> bool:
    """T5 for a completion with effects: the last statement of their transaction; after False, roll it back.

    The answer is true only if this statement itself moved the job: after a repeat, the effects of both would remain. It
    waits for a lock, because it cannot be repeated.
    """
    return outcome.id in _succeed(db, [outcome], _COMPLETE)


def fail(db: Db, outcome: Outcome) -> bool:
    """T6 for a failure with effects, as a statement of their transaction; after False, roll it back.

    The answer is true only if this statement itself moved the job. A row that another transaction locks is skipped, so
    after False the caller reads the row.
    """
    return outcome.id in _fail(db, [outcome])


def _succeed(db: Db, outcomes: Sequence[Outcome], sql: str) -> dict[UUID, str]:
    if not outcomes:
        return {}
    columns = {**_common(outcomes), "results": _texts([o.result for o in outcomes])}
    with_files = [o for o in outcomes if o.files]
    if not with_files:
        return dict(db.fetch(sql, columns))
    with db.transaction():
        done: dict[UUID, str] = dict(db.fetch(sql, columns))
        _attach(db, [o for o in with_files if o.id in done])
    return done


def _fail(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    if not outcomes:
        return {}
    more = {
        "kinds": array(o.kind for o in outcomes),
        "errors": _texts([o.error for o in outcomes]),
        "delays": array(o.delay_s for o in outcomes),
    }
    return dict(db.fetch(_FAIL, {**_common(outcomes), **more}))


def _common(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "ids": array([o.id for o in outcomes]),
        "attempts": array([o.attempt for o in outcomes]),
        "starts": array([int(o.started_s * 1e6) for o in outcomes]),
        "ends": array([int(o.ended_s * 1e6) for o in outcomes]),
    }


_ATTACH = """
UPDATE esteira_file f SET attached_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS v(id, attempt)
WHERE f.job_id = v.id AND f.attempt = v.attempt AND f.attached_at IS NULL
"""


def _attach(db: Db, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        db.fetch(_ATTACH, named((o.id, o.attempt) for o in outcomes))


_WHAT_BECAME = f"""
SELECT j.id, j.state FROM esteira_job j CROSS JOIN LATERAL (SELECT (%(kinds)s::text[])[{AT}] AS kind) v
WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = (%(attempts)s::int[])[{AT}]
  AND ({RUNNING} OR (v.kind = 'succeeded' AND j.state = 'succeeded')
  OR (v.kind IN ('failed', 'given_up') AND j.state IN ('failed', 'queued') AND EXISTS (
    SELECT 1 FROM esteira_jobevent e WHERE e.job_id = j.id AND e.attempt = j.attempt
    AND e.kind IN ('failed', 'retry_scheduled')))
  OR (v.kind <> 'succeeded' AND j.state = 'cancelled'))
"""


def what_became(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    """Find the outcomes that were committed although the answer was lost, and the attempts that still run."""
    asked = {**named((o.id, o.attempt) for o in outcomes), "kinds": array(o.kind for o in outcomes)}
    rows = db.fetch(_WHAT_BECAME, asked)
    return {row[0]: row[1] for row in rows}


def _texts(texts: list[str | None]) -> list[str | None] | None:
    """Return None if there is no text, as in most hints."""
    return texts if any(text is not None for text in texts) else None
