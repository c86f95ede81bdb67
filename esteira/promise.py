"""The promise as queries: rules that every database satisfies, after any sequence of kills, restarts and losses.

Each query returns the ids of the jobs that break its rule. The queries change nothing; `manage.py jobs check` and the
crash tests run them. They read all events of the jobs in question, so they are too slow for a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from esteira import ids
from esteira.db import Params, Row
from esteira.record.rescue import MAX_SUSPICION

#: Events that end an attempt, or take the job from its owner; an attempt has at most one of them.
ENDS_OF_AN_ATTEMPT = ("retry_scheduled", "rescued", "failed", "dead", "cancelled")
#: A job whose lease ended this long ago should have been rescued.
RESCUE_S = 300
#: The lowest id of a job accepted since then: ids are in the order of creation.
_FIRST = UUID(int=0)
_SINCE = f"""SELECT {ids.of_job("m.now", f"'{_FIRST}'")}
             FROM (SELECT clock_timestamp() - %(since)s::interval AS now OFFSET 0) AS m"""
#: At most this many jobs of a broken promise are returned.
MOST = 1_000


class Fetches(Protocol):
    """An object that runs a query."""

    def fetch(self, sql: str, params: Params = ()) -> list[Row]: ...


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One rule in words, and the query that finds the jobs that break it."""

    rule: str
    sql: str


PROMISES = (
    Promise(
        rule="An attempt ends at most once.",
        sql="""SELECT e.job_id FROM esteira_jobevent e JOIN j ON j.id = e.job_id
               WHERE e.kind = ANY(%(ends)s) AND e.attempt > 0 GROUP BY e.job_id, e.attempt, j.state, j.attempt
               HAVING count(*) + (j.state = 'succeeded' AND j.attempt = e.attempt)::int > 1""",
    ),
    Promise(
        rule="Attempt numbers only rise, and no event names an attempt that never existed.",
        sql="""SELECT DISTINCT job_id FROM (
                 SELECT e.job_id, e.attempt, j.attempt AS last, e.kind = 'late_result' AS late,
                   max(e.attempt) OVER (PARTITION BY e.job_id ORDER BY e.id) AS so_far
                 FROM esteira_jobevent e JOIN j ON j.id = e.job_id) x
               WHERE attempt > last OR attempt < so_far AND NOT late""",
    ),
    Promise(
        rule="A job leaves an end state only by an operator's retry.",
        sql="""SELECT e.job_id FROM esteira_jobevent e JOIN j ON j.id = e.job_id GROUP BY e.job_id
               HAVING count(*) FILTER (WHERE e.kind IN ('failed', 'dead', 'cancelled'))
                 > count(*) FILTER (WHERE e.kind = 'retried') + 1""",
    ),
    Promise(
        rule="A tick of a schedule has one job, or one skip with its reason.",
        sql="""SELECT j.id FROM j WHERE j.tick_at IS NOT NULL AND (
                 EXISTS (SELECT 1 FROM esteira_job o WHERE o.schedule_id = j.schedule_id AND o.tick_at = j.tick_at
                   AND o.id <> j.id)
                 OR EXISTS (SELECT 1 FROM esteira_scheduleskip k WHERE k.schedule_id = j.schedule_id
                   AND k.tick_at = j.tick_at))""",
    ),
    Promise(
        rule=f"A job whose process dies more than {MAX_SUSPICION} times is dead-lettered.",
        sql="SELECT j.id FROM j WHERE j.suspicion > %(suspicion)s + 1",
    ),
    Promise(
        rule="Files are attached by the attempt that succeeded, and by no other.",
        sql="""SELECT DISTINCT j.id FROM esteira_file f JOIN j ON j.id = f.job_id
               WHERE f.attached_at IS NOT NULL AND (f.attempt <> j.attempt OR j.state <> 'succeeded')""",
    ),
    Promise(
        rule="The times of an attempt are in order.",
        sql="SELECT j.id FROM j WHERE j.finished_at < j.started_at OR j.started_at < j.claimed_at",
    ),
    Promise(
        rule=f"A job whose lease ended more than {RESCUE_S} s ago was rescued.",
        sql="""SELECT j.id FROM j WHERE j.state = 'running'
                 AND j.lease_until < clock_timestamp() - %(rescue)s * interval '1 second'""",
    ),
)


def broken(db: Fetches, since: timedelta | None = None) -> Iterator[tuple[Promise, list[Row]]]:
    """Yield each promise with at most 1,000 jobs that break it; of the jobs accepted within `since`, or of all."""
    asked = {
        "ends": list(ENDS_OF_AN_ATTEMPT),
        "suspicion": MAX_SUSPICION,
        "rescue": RESCUE_S,
        "since": since,
        "most": MOST,
    }
    for promise in PROMISES:
        rows = db.fetch(
            f"""WITH j AS (SELECT * FROM esteira_job
                  WHERE id >= coalesce(({_SINCE}), '{_FIRST}'))
                {promise.sql} LIMIT %(most)s""",
            asked,
        )
        yield promise, rows
