"""The reason why a due job has not started: its queue is paused, or no worker takes it."""

from __future__ import annotations

from esteira.db import DjangoConnection
from esteira.liveness import SILENT_S


def why_waiting(queue: str, job_type: str) -> str:
    """Return why a due job has not started, if the reason is one that a person can remove; else ""."""
    paused = DjangoConnection().fetch(
        "SELECT paused_by, reason FROM esteira_queue WHERE name = %s AND paused_at IS NOT NULL", [queue]
    )
    if paused:
        by, reason = paused[0]
        return f"the queue {queue} is paused by {by}{f' ({reason})' if reason else ''}"
    rows = DjangoConnection().fetch(
        """SELECT count(*), count(*) FILTER (WHERE jsonb_exists(queues, %(queue)s)),
             count(*) FILTER (WHERE jsonb_exists(queues, %(queue)s) AND jsonb_exists(types, %(type)s))
           FROM esteira_worker
           WHERE state = 'up' AND last_seen > clock_timestamp() - %(silent)s * interval '1 second'""",
        {"queue": queue, "type": job_type, "silent": SILENT_S},
    )
    up, reading, knowing = rows[0]
    if not up:
        return "no worker is up"
    if not reading:
        return f"no worker reads the queue {queue}"
    return (
        ""
        if knowing
        else f"no running worker knows the job type {job_type}; the job waits for a newer worker"
    )
