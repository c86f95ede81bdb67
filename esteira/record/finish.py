"""T4 extend, T5 succeed, T6 fail or retry, T10 hand back one's own: what the process that runs a job may write.

Every statement names the attempt, so a process whose lease was taken over changes nothing: that is the fence. Repeating
`finish` after a lost connection is safe; a repeat that finds its own outcome recorded counts as recorded. `complete` is
never repeated, because effects hang on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from esteira.db import Db
from esteira.record import COUNTED, RUNNING
from esteira.record.rescue import LONGEST_REST_S, MAX_SUSPICION, WORKER_LOST


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one attempt ended. `kind`: succeeded, failed (may be tried again), given_up, cancelled.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Break:
    """Why a started attempt has no outcome: `reason` is for the event, `type` and `message` for the last error."""

    reason: str
    type: str
    message: str


_FINISH = f"""
WITH v AS (SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(kinds)s::text[], %(results)s::text[],
    %(errors)s::text[], %(delays)s::float8[], %(starts)s::float8[], %(ends)s::float8[])
  AS v(id, attempt, kind, result, error, delay_s, started_s, ended_s)),
locked AS MATERIALIZED (
  SELECT j.id, v.kind, v.result, v.error, v.delay_s, v.started_s, v.ended_s,
    CASE WHEN v.kind = 'succeeded' THEN 'succeeded'
         WHEN v.kind = 'cancelled' OR j.cancel_requested_at IS NOT NULL THEN 'cancelled'
         WHEN v.kind = 'failed' AND j.failures + 1 < j.max_failures THEN 'queued'
         ELSE 'failed' END AS next
  FROM v JOIN esteira_job j ON j.id = v.id
  WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = v.attempt AND {RUNNING} ORDER BY j.id FOR NO KEY UPDATE OF j),
moved AS (
  UPDATE esteira_job j SET state = locked.next, worker = NULL, lease_until = NULL,
    failures = j.failures + (locked.kind IN ('failed', 'given_up'))::int,
    started_at = coalesce(j.started_at, j.claimed_at + locked.started_s * interval '1 second'),
    finished_at = CASE WHEN locked.next <> 'queued' THEN
      greatest(j.claimed_at + locked.ended_s * interval '1 second', j.claimed_at) END,
    run_at = CASE WHEN locked.next = 'queued'
      THEN clock_timestamp() + locked.delay_s * interval '1 second' ELSE j.run_at END,
    published_at = NULL, refused_since = NULL, interrupted = false,
    result = CASE WHEN locked.next = 'succeeded' THEN locked.result::jsonb END,
    error = CASE WHEN locked.next = 'succeeded' THEN NULL ELSE coalesce(locked.error::jsonb, j.error) END
  FROM locked WHERE j.id = locked.id AND j.id = ANY(%(ids)s::uuid[])
  RETURNING j.id, j.attempt, locked.next, locked.kind, locked.error, locked.delay_s),
noted AS (
  INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
  SELECT id, clock_timestamp(), CASE next WHEN 'queued' THEN 'retry' ELSE next END, attempt, '', '',
    jsonb_build_object('error', error::jsonb) ||
    CASE next WHEN 'queued' THEN jsonb_build_object('delay_s', round(delay_s::numeric, 3)) ELSE '{{}}'::jsonb END
  FROM moved WHERE kind <> 'succeeded')
SELECT id, next FROM moved
"""


def finish(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    """T5, T6: record how attempts ended; return the recorded ids with the state each job is in now.

    An id that is missing from the answer was refused: another attempt owns the job. For ends without effects only,
    because a repeat counts as recorded.
    """
    done = _recorded(db, outcomes)
    missing = [o for o in outcomes if o.id not in done]
    return {**done, **already_recorded(db, missing)} if missing else done


def complete(db: Db, outcome: Outcome) -> bool:
    """T5 for a completion with effects: the last statement of their transaction; False must roll it back.

    It is true only if this very statement moved the job: with a repeat, the effects of both would stay.
    """
    return outcome.id in _recorded(db, [outcome])


def _recorded(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    if not any(o.files for o in outcomes):
        return _finish(db, outcomes)
    with db.transaction():
        done = _finish(db, outcomes)
        _attach(db, [o for o in outcomes if done.get(o.id) == "succeeded"])
    return done


def _finish(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    columns = {
        "ids": [o.id for o in outcomes],
        "attempts": [o.attempt for o in outcomes],
        "kinds": [o.kind for o in outcomes],
        "results": [o.result for o in outcomes],
        "errors": [o.error for o in outcomes],
        "delays": [o.delay_s for o in outcomes],
        "starts": [o.started_s for o in outcomes],
        "ends": [o.ended_s for o in outcomes],
    }
    return {row[0]: row[1] for row in db.fetch(_FINISH, columns)}


def _attach(db: Db, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        db.fetch(
            """UPDATE esteira_file f SET attached_at = clock_timestamp()
               FROM unnest(%s::uuid[], %s::int[]) AS v(id, attempt)
               WHERE f.job_id = v.id AND f.attempt = v.attempt AND f.attached_at IS NULL""",
            [[o.id for o in outcomes], [o.attempt for o in outcomes]],
        )


def already_recorded(db: Db, outcomes: Sequence[Outcome]) -> dict[UUID, str]:
    """Find the outcomes whose first commit went through although its answer was lost."""
    rows = db.fetch(
        """SELECT j.id, j.state
           FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(kinds)s::text[]) AS v(id, attempt, kind)
           JOIN esteira_job j ON j.id = v.id
           WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = v.attempt
             AND ((v.kind = 'succeeded' AND j.state = 'succeeded')
             OR (v.kind IN ('failed', 'given_up') AND j.state IN ('failed', 'queued') AND EXISTS (
               SELECT 1 FROM esteira_jobevent e WHERE e.job_id = j.id AND e.attempt = v.attempt
               AND e.kind IN ('failed', 'retry')))
             OR (v.kind <> 'succeeded' AND j.state = 'cancelled'))""",
        {
            "ids": [o.id for o in outcomes],
            "attempts": [o.attempt for o in outcomes],
            "kinds": [o.kind for o in outcomes],
        },
    )
    return {row[0]: row[1] for row in rows}


def extend(db: Db, mine: Sequence[tuple[UUID, int]]) -> dict[UUID, tuple[bool, bool]]:
    """T4: extend the leases of what I hold; return (cancel requested, by force) for each that is still mine."""
    rows = db.fetch(
        f"""
        WITH locked AS MATERIALIZED (
          SELECT j.id FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS v(id, attempt)
          JOIN esteira_job j ON j.id = v.id
          WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = v.attempt AND {RUNNING}
          ORDER BY j.id FOR NO KEY UPDATE OF j)
        UPDATE esteira_job j SET lease_until = clock_timestamp() + j.lease_s * interval '1 second'
        WHERE j.id = ANY(ARRAY(SELECT id FROM locked))
        RETURNING j.id, j.cancel_requested_at IS NOT NULL, j.cancel_force""",
        {"ids": [i for i, _ in mine], "attempts": [a for _, a in mine]},
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def start(db: Db, job_id: UUID, attempt: int, started_s: float) -> None:
    """Say that a claimed job has started, for one that is not over at once."""
    db.fetch(
        f"""UPDATE esteira_job j SET started_at = j.claimed_at + %s * interval '1 second'
            WHERE j.id = %s AND j.attempt = %s AND {RUNNING}""",
        [started_s, job_id, attempt],
    )


def progress(db: Db, job_id: UUID, attempt: int, done: float, total: float | None, text: str) -> None:
    """Store how far an attempt is."""
    db.fetch(
        f"""UPDATE esteira_job j SET progress_done = %s, progress_total = %s, progress_text = %s
            WHERE j.id = %s AND j.attempt = %s AND {RUNNING}""",
        [done, total, text, job_id, attempt],
    )


def hand_back(db: Db, mine: Sequence[tuple[UUID, int]], *, solo: bool = False) -> int:
    """T10 for one's own jobs: back to the queue, nothing counted; `solo` makes them run alone from now on."""
    if not mine:
        return 0
    return len(
        db.fetch(
            f"""
            WITH locked AS MATERIALIZED (
              SELECT j.id FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS v(id, attempt)
              JOIN esteira_job j ON j.id = v.id
              WHERE j.id = ANY(%(ids)s::uuid[]) AND j.attempt = v.attempt AND {RUNNING}
              ORDER BY j.id FOR NO KEY UPDATE OF j),
            moved AS (
              UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL,
                solo = j.solo OR %(solo)s, interrupted = j.started_at IS NOT NULL,
                state = CASE WHEN j.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END,
                finished_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN clock_timestamp() END
              WHERE j.id = ANY(ARRAY(SELECT id FROM locked))
              RETURNING j.id, j.attempt, j.type, j.queue, j.state),
            noted AS (
              INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
              SELECT id, clock_timestamp(), 'cancelled', attempt, '', '', '{{}}' FROM moved WHERE state = 'cancelled'),
            {COUNTED}
            SELECT 1 FROM moved""",
            {"ids": [i for i, _ in mine], "attempts": [a for _, a in mine], "solo": solo},
        )
    )


def break_off(db: Db, job_id: UUID, attempt: int, cause: Break) -> str | None:
    """T10 for a started attempt that has no outcome: one point of suspicion; return the state that the job is in now.

    It runs again after a moment, longer each time, and is dead at the sixth point. None: the attempt is over by now.
    """
    rows = db.fetch(
        f"""
        WITH locked AS MATERIALIZED (
          SELECT j.id, j.worker, j.cancel_requested_at IS NOT NULL AS cancelled,
            j.suspicion + {WORKER_LOST} >= {MAX_SUSPICION} AS dead
          FROM esteira_job j WHERE j.id = %(id)s AND j.attempt = %(attempt)s AND {RUNNING}
          FOR NO KEY UPDATE OF j),
        moved AS (
          UPDATE esteira_job j SET worker = NULL, lease_until = NULL, published_at = NULL,
            state = CASE WHEN cancelled THEN 'cancelled' WHEN dead THEN 'dead' ELSE 'queued' END,
            finished_at = CASE WHEN cancelled OR dead THEN clock_timestamp() END,
            suspicion = j.suspicion + {WORKER_LOST},
            hold_until = CASE WHEN NOT (cancelled OR dead) THEN clock_timestamp()
              + (0.5 + random() / 2) * least(power(2, j.suspicion), {LONGEST_REST_S}) * interval '1 second' END,
            error = CASE WHEN dead AND NOT cancelled THEN jsonb_build_object('kind', 'lost', 'type', %(type)s::text,
              'message', %(why)s::text || ' That is ' || (j.suspicion + {WORKER_LOST})
                || ' points of suspicion. Retry it once the cause is found.') ELSE j.error END
          FROM locked WHERE j.id = locked.id AND j.id = %(id)s
          RETURNING j.id, j.attempt, j.type, j.queue, j.state, locked.worker),
        noted AS (
          INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
          SELECT id, clock_timestamp(), CASE state WHEN 'queued' THEN 'rescued' ELSE state END, attempt, worker, '',
            jsonb_build_object('reason', %(reason)s::text) FROM moved),
        {COUNTED}
        SELECT state FROM moved""",
        {"id": job_id, "attempt": attempt, "reason": cause.reason, "type": cause.type, "why": cause.message},
    )
    return str(rows[0][0]) if rows else None


def kill(db: Db, job_id: UUID, attempt: int) -> bool:
    """T12 by force: running -> cancelled, written by the process that then ends itself."""
    rows = db.fetch(
        f"""
        WITH moved AS (
          UPDATE esteira_job j SET state = 'cancelled', finished_at = clock_timestamp(), worker = NULL,
            lease_until = NULL
          WHERE j.id = %s AND j.attempt = %s AND {RUNNING}
          RETURNING j.id, j.attempt, j.type, j.queue, j.state, j.cancel_by),
        {COUNTED}
        INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
        SELECT id, clock_timestamp(), 'cancelled', attempt, '', cancel_by, '{{"force": true}}' FROM moved
        RETURNING 1""",
        [job_id, attempt],
    )
    return bool(rows)


def refused(db: Db, job_id: UUID, attempt: int, kind: str) -> None:
    """Note that an attempt ended after another had taken its job over; its outcome changed nothing."""
    db.fetch(
        """INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
           SELECT j.id, clock_timestamp(), 'refused', %s, '', '',
             jsonb_build_object('reason', 'late result', 'outcome', %s::text)
           FROM esteira_job j WHERE j.id = %s""",
        [attempt, kind, job_id],
    )


def log_lines(db: Db, lines: Sequence[tuple[UUID, int, str]]) -> None:
    """Add pieces of log (job, attempt, text); they belong to the attempt, whoever owns the job."""
    ids, attempts, texts = zip(*lines, strict=True)
    db.fetch(
        """INSERT INTO esteira_joblog (job_id, attempt, at, text)
           SELECT v.id, v.attempt, clock_timestamp(), v.text
           FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(texts)s::text[]) AS v(id, attempt, text)
           JOIN esteira_job j ON j.id = v.id WHERE j.id = ANY(%(ids)s::uuid[])""",
        {"ids": list(ids), "attempts": list(attempts), "texts": list(texts)},
    )


def state_of(db: Db, job_id: UUID, attempt: int) -> str:
    """Return what became of an attempt: the job's state while it is the latest, else "somebody else's"."""
    rows = db.fetch("SELECT state FROM esteira_job WHERE id = %s AND attempt = %s", [job_id, attempt])
    return str(rows[0][0]) if rows else "somebody else's"
