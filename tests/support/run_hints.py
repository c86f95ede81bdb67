"""Run hints in this process, and read the results."""

from __future__ import annotations

from uuid import UUID, uuid4

from django.db import connection

from esteira.models import Job, JobEvent
from esteira.runner.runner import Runner


def run(runner: Runner, *ids: UUID) -> list[Job]:
    runner.run_hint([str(one) for one in ids], str(uuid4()))
    rows = {row.pk: row for row in Job.objects.filter(pk__in=ids)}
    return [rows[one] for one in ids]


def events(row: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=row).values_list("kind", flat=True))


def effect(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO esteira_queue (name, paused_by, reason) VALUES (%s, '', '')", [text])


def effects() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM esteira_queue ORDER BY name")
        return [row[0] for row in cursor.fetchall()]
