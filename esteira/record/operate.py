"""T11, T12 cancel and T13 retry: the actions of users on a job; each adds an event with the user's name."""

from __future__ import annotations

from uuid import UUID

from esteira.db import Db
from esteira.record import NOTED

_CANCEL = f"""
WITH locked AS MATERIALIZED (SELECT j.id, j.state FROM esteira_job j WHERE j.id = %(id)s FOR NO KEY UPDATE),
moved AS (
  UPDATE esteira_job j SET cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()),
    cancel_by = %(by)s, cancel_force = j.cancel_force OR %(force)s,
    state = CASE j.state WHEN 'queued' THEN 'cancelled' ELSE j.state END,
    finished_at = CASE j.state WHEN 'queued' THEN clock_timestamp() END,
    published_at = CASE j.state WHEN 'queued' THEN NULL ELSE j.published_at END
  FROM locked WHERE j.id = %(id)s AND locked.state IN ('queued', 'running')
  RETURNING j.id, j.attempt, j.state),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), CASE state WHEN 'running' THEN 'cancel' ELSE 'cancelled' END, attempt, '',
    %(by)s, jsonb_build_object('force', %(force)s::boolean) FROM moved)
SELECT coalesce((SELECT state FROM moved), (SELECT state FROM locked))
"""


def cancel(db: Db, job_id: UUID, *, by: str, force: bool) -> str | None:
    """T11: end a waiting job; T12: ask a running one to stop. Return its state afterwards, None if there is none."""
    rows = db.fetch(_CANCEL, {"id": job_id, "by": by, "force": force})
    state: str | None = rows[0][0]
    return state


_RETRY = f"""
WITH locked AS MATERIALIZED (SELECT j.id, j.state FROM esteira_job j WHERE j.id = %(id)s FOR NO KEY UPDATE),
turn AS MATERIALIZED (
  SELECT s.id FROM esteira_schedule s
  WHERE s.id = (SELECT o.schedule_id FROM esteira_job o WHERE o.id = %(id)s) FOR KEY SHARE),
moved AS (
  UPDATE esteira_job j SET state = 'queued', run_at = clock_timestamp(), finished_at = NULL,
    started_at = NULL, claimed_at = NULL, failures = 0, suspicion = 0, solo = false, interrupted = false,
    error = NULL, cancel_requested_at = NULL, cancel_by = '', cancel_force = false, expires_at = NULL,
    published_at = NULL, hold_until = NULL, refused_since = NULL,
    progress_done = NULL, progress_total = NULL, progress_text = '', settled = false,
    schedule_id = CASE WHEN NOT j.in_turn OR EXISTS (SELECT 1 FROM turn) THEN j.schedule_id END
  FROM locked WHERE j.id = %(id)s AND locked.state IN ('failed', 'dead', 'cancelled', 'expired')
    AND NOT (locked.state IN ('cancelled', 'expired') AND j.secret_names IS NOT NULL)
  RETURNING j.id, j.attempt, locked.state AS was, j.task_id),
forgotten AS (DELETE FROM esteira_taskresult r USING moved WHERE r.task_id = moved.task_id AND r.state <> 'SUCCESS'),
allowed AS (DELETE FROM esteira_taskrevoked r USING moved WHERE r.task_id = moved.task_id),
noted AS (
  {NOTED}
  SELECT id, clock_timestamp(), 'retried', attempt, '', %(by)s, jsonb_build_object('was', was) FROM moved)
SELECT state FROM locked
"""


def retry(db: Db, job_id: UUID, *, by: str) -> str | None:
    """T13: send an ended job back to the queue, with all its counts reset.

    Return the state that it was in (it is queued again if that was failed, dead, cancelled or expired, see
    `forgot_secrets` for the last two), None if there is no such job. Raises the driver's UniqueViolation if another job
    holds its unique key now. A job that runs in turn keeps its schedule only if the schedule still exists: by the lock,
    a deletion of the schedule is either complete before this statement, or finds the job waiting.
    """
    with db.transaction():
        db.fetch("SELECT set_config('esteira.transition', 'T13', true)")
        rows = db.fetch(_RETRY, {"id": job_id, "by": by})
        db.fetch("SELECT set_config('esteira.transition', '', true)")
    return rows[0][0] if rows else None


_FORGOT_SECRETS = """
SELECT 1 FROM esteira_job WHERE id = %(id)s AND secret_names IS NOT NULL
AND state IN ('succeeded', 'cancelled', 'expired')
"""


def forgot_secrets(db: Db, job_id: UUID) -> bool:
    """Return whether the end of a job removed its secret parameters; such a job cannot be retried."""
    rows = db.fetch(_FORGOT_SECRETS, {"id": job_id})
    return bool(rows)
