"""Operators' actions on jobs and queues: cancel, retry, pause, resume; for pages, API, admin and command line alike.

Each action is one transaction on the caller's connection. `record` writes the state of a job. If another process has
changed the job first, that is an error here, because a person waits for the answer and must see what happened instead.
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError
from psycopg.errors import UniqueViolation

from esteira.db import Db, DjangoConnection
from esteira.db.patience import PATIENCE_S, waiting_at_most
from esteira.errors import Held, NotFound, SecretsRemoved, StateConflict, UniqueConflict, UnknownQueue
from esteira.job_types.registry import registry
from esteira.record import operate
from esteira.record.insert import holder
from esteira.states import RETRYABLE, State
from esteira.values import bounds

log = logging.getLogger("esteira.operate")


def cancel(job_id: UUID, *, by: str, force: bool = False) -> str:
    """Cancel a waiting job, or request a running one to stop; return its state: cancelled, or running until it stops.

    `force` makes the worker kill the job's process. Cancelling a cancelled job changes nothing. Raises NotFound, or
    StateConflict if the job has ended otherwise, or Held if another transaction locks it for more than two seconds.
    """
    bounds.BY.check("by", by)
    db = DjangoConnection()
    with waiting_at_most(db, PATIENCE_S, lambda: Held("job", job_id)):
        state = operate.cancel(db, job_id, by=by, force=force)
    if state is None:
        raise NotFound("job", job_id)
    if state not in (State.RUNNING, State.CANCELLED):
        raise StateConflict(job_id, state, "cancelled")
    return state


def retry(job_id: UUID, *, by: str) -> None:
    """Put a failed, dead, cancelled or expired job back into its queue, with its failures and its outcome cleared.

    Raises NotFound, StateConflict (SecretsRemoved among them), Held, or UniqueConflict if another job has its unique
    key now.
    """
    bounds.BY.check("by", by)
    db = DjangoConnection()
    try:
        with waiting_at_most(db, PATIENCE_S, lambda: Held("job", job_id)):
            was = operate.retry(db, job_id, by=by)
    except IntegrityError as error:
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        raise _conflict(db, job_id) from None
    if was is None:
        raise NotFound("job", job_id)
    if was not in RETRYABLE:
        raise StateConflict(job_id, was, "retried")
    if was in (State.CANCELLED, State.EXPIRED) and operate.forgot_secrets(db, job_id):
        raise SecretsRemoved(job_id, was)


def pause(queue: str, *, by: str, reason: str = "") -> None:
    """Stop handing out a queue's jobs; running ones end as usual. Raises UnknownQueue, or Held."""
    bounds.BY.check("by", by)
    bounds.REASON.check("reason", reason)
    db = DjangoConnection()
    _refuse_unknown(db, queue)
    with waiting_at_most(db, PATIENCE_S, lambda: Held("queue", queue)):
        db.fetch(
            """INSERT INTO esteira_queue (name, paused_at, paused_by, reason) VALUES (%s, clock_timestamp(), %s, %s)
               ON CONFLICT (name) DO UPDATE SET paused_at = coalesce(esteira_queue.paused_at, excluded.paused_at),
                 paused_by = excluded.paused_by, reason = excluded.reason""",
            [queue, by, reason],
        )
    log.info("queue %s was paused by %s: %s", queue, by, reason or "no reason given")


def resume(queue: str, *, by: str) -> None:
    """Hand out a queue's jobs again; raises UnknownQueue, or Held."""
    bounds.BY.check("by", by)
    db = DjangoConnection()
    _refuse_unknown(db, queue)
    with waiting_at_most(db, PATIENCE_S, lambda: Held("queue", queue)):
        db.fetch(
            "UPDATE esteira_queue SET paused_at = NULL, paused_by = '', reason = '' WHERE name = %s", [queue]
        )
    log.info("queue %s was resumed by %s", queue, by)


def _conflict(db: Db, job_id: UUID) -> UniqueConflict:
    key = str(db.fetch("SELECT unique_key FROM esteira_job WHERE id = %s", [job_id])[0][0])
    return UniqueConflict(key.split(":", 1)[-1], holder(db, key))


def _refuse_unknown(db: Db, queue: str) -> None:
    """Refuse an unknown queue, so that a typing mistake does not look like a paused queue.

    A queue that only a newer worker reads is known too.
    """
    rows = db.fetch(
        """SELECT name FROM esteira_queue
           UNION SELECT jsonb_array_elements_text(queues) FROM esteira_worker WHERE jsonb_typeof(queues) = 'array'"""
    )
    known = {
        *registry.queues(),
        *settings.ESTEIRA_JOB_QUEUES,
        *(row[0] for row in rows if row[0] is not None),
    }
    if not isinstance(queue, str) or queue not in known:
        raise UnknownQueue(queue, sorted(known))
