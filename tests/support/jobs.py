"""Job rows for tests of `esteira.record`: made, claimed and looked at by their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from esteira import ids
from esteira.db import Db
from esteira.record.claim import Claimed, claim
from esteira.record.finish import Outcome
from esteira.record.insert import Choices, NewJob, insert

TYPE = "tests.work"
#: Nothing has it. Parameters of tests are the same in every process, because pytest-xdist compares them.
UNKNOWN_ID = UUID("00000000-0000-4000-8000-000000000000")


ORDINARY = Choices(
    type=TYPE, queue="default", priority=6, max_failures=4, backoff_s=2.0, lease_s=10.0, timeout_s=600.0
)
#: Fields that each job has for itself.
OWN = {field.name for field in fields(NewJob)}


def new(**given: Any) -> NewJob:
    """A job of an ordinary type: due at once, four tries, a lease of ten seconds."""
    choices = replace(ORDINARY, **{name: value for name, value in given.items() if name not in OWN})
    own = {name: value for name, value in given.items() if name in OWN}
    return NewJob(**{"choices": choices, "params": "{}", **own})


def stored(db: Db, n: int = 1, **fields: Any) -> list[UUID]:
    """Store n such jobs, and return their ids."""
    return list(insert(db, [new(**fields) for _ in range(n)]))


def running(
    db: Db, n: int = 1, *, worker: str = "w1/boot", delivery: str = "d1", **fields: Any
) -> list[Claimed]:
    """Store and claim n jobs; more than one come as a batch."""
    return claim(db, stored(db, n, **fields), worker=worker, delivery=delivery)


def ended(db: Db, job_id: UUID, state: str) -> None:
    """Put a stored job into an end state, past every guard but the database's own."""
    db.fetch(
        """UPDATE esteira_job SET state = 'running', attempt = attempt + 1, worker = 'w',
             claimed_at = clock_timestamp(), lease_until = clock_timestamp()
           WHERE id = %s AND %s IN ('succeeded', 'failed', 'dead')""",
        [job_id, state],
    )
    db.fetch(
        """UPDATE esteira_job SET state = %s, worker = NULL, lease_until = NULL,
             finished_at = clock_timestamp(),
             error = CASE WHEN %s IN ('failed', 'dead') THEN '{"message": "it broke"}'::jsonb END
           WHERE id = %s""",
        [state, state, job_id],
    )


def outcome(job: Claimed, kind: str = "succeeded", **fields: Any) -> Outcome:
    """How an attempt ended, after 50 ms."""
    plain = Outcome(id=job.id, attempt=job.attempt, kind=kind, started_s=0.01, ended_s=0.06)
    if kind == "succeeded":
        plain = replace(plain, result='{"ok": true}')
    elif kind != "cancelled":
        plain = replace(plain, error='{"kind": "exception", "type": "ValueError", "message": "no"}')
    return replace(plain, **fields)


def look(db: Db, job_id: UUID) -> SimpleNamespace:
    """Return a job's row, its columns as attributes; times also as seconds from now in `…_in`."""
    return SimpleNamespace(
        **db.fetch(
            """SELECT to_jsonb(j) || jsonb_build_object(
                 'run_in', extract(epoch FROM run_at - clock_timestamp()),
                 'lease_in', extract(epoch FROM lease_until - clock_timestamp()),
                 'hold_in', extract(epoch FROM hold_until - clock_timestamp()))
               FROM esteira_job j WHERE id = %s""",
            [job_id],
        )[0][0]
    )


def version(db: Db, job_id: UUID) -> tuple[str, str]:
    """Name the stored version of a job's row; any write makes another."""
    return db.fetch("SELECT xmin::text, ctid::text FROM esteira_job WHERE id = %s", [job_id])[0]  # type: ignore[return-value]


def states(db: Db, job_ids: Sequence[UUID]) -> list[str]:
    found = dict(db.fetch("SELECT id, state FROM esteira_job WHERE id = ANY(%s)", [list(job_ids)]))
    return [found[one] for one in job_ids]


def kinds(db: Db, job_id: UUID) -> list[str]:
    """Return the kinds of a job's events, oldest first."""
    return [
        row[0]
        for row in db.fetch("SELECT kind FROM esteira_jobevent WHERE job_id = %s ORDER BY id", [job_id])
    ]


def elapse(db: Db, job_id: UUID, column: str, seconds: float = 3600) -> None:
    """Move one of a job's times into the past, as if so much time had gone by."""
    db.fetch(
        f"UPDATE esteira_job SET {column} = {column} - %s * interval '1 second' WHERE id = %s",
        [seconds, job_id],
    )


def accepted_earlier(db: Db, job_id: UUID, seconds: float) -> UUID:
    """Move a job's acceptance into the past; return its id, which begins with that moment."""
    ((new_id,),) = db.fetch(
        f"""UPDATE esteira_job j SET created_at = v.at, id = {ids.of_job("v.at", "j.id")}
            FROM (SELECT id, created_at - %s * interval '1 second' AS at FROM esteira_job WHERE id = %s) AS v
            WHERE j.id = v.id RETURNING j.id""",
        [seconds, job_id],
    )
    return UUID(str(new_id))


def schedule(db: Db, name: str = "nightly") -> int:
    """Store a schedule of the type TYPE."""
    rows = db.fetch(
        """INSERT INTO esteira_schedule
             (name, type, params, cron, tz, every_s, overlap, missed, grace_s, enabled, origin)
           VALUES (%s, %s, '{}', '0 3 * * *', 'UTC', 0, 'queue', 'once', 60, true, 'database')
           RETURNING id""",
        [name, TYPE],
    )
    return int(rows[0][0])
