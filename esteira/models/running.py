"""The tables of the running system: queues, workers, the keeper, answered requests, counts, backups."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from esteira.models.clock import ClockTimestamp


class Queue(models.Model):
    """A queue that was paused at least once."""

    name = models.CharField(max_length=60, primary_key=True)
    paused_at = models.DateTimeField(null=True)
    paused_by = models.TextField(default="")
    reason = models.TextField(default="")

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A worker process, as it has registered itself; `types` are the job types that it can run."""

    name = models.TextField(primary_key=True)
    incarnation = models.TextField()
    host = models.TextField()
    pid = models.IntegerField()
    queues = models.JSONField(default=list)
    types = models.JSONField(default=list)
    slots = models.IntegerField(default=0)
    state = models.CharField(max_length=8, default="up")
    started_at = models.DateTimeField(db_default=ClockTimestamp())
    last_seen = models.DateTimeField(db_default=ClockTimestamp())

    def __str__(self) -> str:
        return self.name


class Keeper(models.Model):
    """One row: the results of the last turns, and until when rescues are held after the database was unavailable.

    `last_turn`: a keeper began a turn. `last_sweep`: every step of a turn succeeded. `failing`: the steps that failed,
    by keeper and step.
    """

    id = models.SmallIntegerField(primary_key=True)
    last_turn = models.DateTimeField(null=True)
    last_sweep = models.DateTimeField(null=True)
    failing = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    hold_until = models.DateTimeField(null=True)
    database_started_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="keeper_one_row")]


class IdempotencyKey(models.Model):
    """The first answer to a request that carried an Idempotency-Key."""

    id = models.BigAutoField(primary_key=True)
    scope = models.TextField()
    key = models.TextField()
    body_hash = models.BinaryField()
    answer = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=ClockTimestamp(), db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "key"], name="idempotency_once")]


class Counts(models.Model):
    """Counts of one type, queue and state: ends, the sum of run times, and run times by bucket.

    A run time is counted in the first bucket whose bound it is below, or in `longer`. Ends that no process measures
    (such as dead and expired) are counted by `esteira.record`, in `n` only.
    """

    id = models.BigAutoField(primary_key=True)
    type = models.CharField(max_length=120)
    queue = models.CharField(max_length=60)
    state = models.CharField(max_length=10)
    n = models.BigIntegerField(db_default=0)
    sum_ms = models.FloatField(db_default=0)
    below_1ms = models.BigIntegerField(db_default=0)
    below_10ms = models.BigIntegerField(db_default=0)
    below_50ms = models.BigIntegerField(db_default=0)
    below_100ms = models.BigIntegerField(db_default=0)
    below_500ms = models.BigIntegerField(db_default=0)
    below_1s = models.BigIntegerField(db_default=0)
    below_5s = models.BigIntegerField(db_default=0)
    below_10s = models.BigIntegerField(db_default=0)
    below_1min = models.BigIntegerField(db_default=0)
    below_5min = models.BigIntegerField(db_default=0)
    below_1h = models.BigIntegerField(db_default=0)
    longer = models.BigIntegerField(db_default=0)

    class Meta:
        abstract = True


class Stat(Counts):
    """The counts of one minute: each process adds to them with one statement every 5 s, never per job."""

    minute = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["minute", "type", "queue", "state"], name="stat_once")]


class StatTotal(Counts):
    """The counts of all minutes since the beginning; a trigger adds to them, and retention never deletes them."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["type", "queue", "state"], name="stat_total_once")]


class Backup(models.Model):
    """When a step of the backups last succeeded and last failed; written by the backup scripts."""

    step = models.TextField(primary_key=True)
    succeeded_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
