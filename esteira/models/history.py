"""What happened to a job: its events, and the logs of its attempts."""

from __future__ import annotations

from django.db import models

from esteira.models.clock import ClockTimestamp
from esteira.models.jobs import Job


class JobEvent(models.Model):
    """An event of a job: a failure, a rescue, or an operator's action; append-only."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(db_default=ClockTimestamp())
    kind = models.CharField(max_length=16)
    attempt = models.IntegerField(default=0)
    worker = models.TextField(default="")
    by = models.TextField(default="")
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]


def newest_log(job: Job, most: int) -> list[tuple[int, str]]:
    """Return the last `most` characters of a job's log as (attempt, text), oldest attempt first.

    The log is read from its end: hundreds of attempts may have logged a MiB each.
    """
    texts: dict[int, list[str]] = {}
    left = most
    for piece in JobLog.objects.filter(job=job).order_by("-id").iterator(chunk_size=50):
        if left <= 0:
            break
        texts.setdefault(piece.attempt, []).append(piece.text[-left:])
        left -= len(piece.text)
    return [(attempt, "".join(reversed(pieces))) for attempt, pieces in sorted(texts.items())]


class JobLog(models.Model):
    """A piece of an attempt's log; at most 1 MiB for an attempt, with a line that reports the cut."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="logs")
    attempt = models.IntegerField()
    at = models.DateTimeField(db_default=ClockTimestamp())
    text = models.TextField()

    class Meta:
        ordering = ["id"]
