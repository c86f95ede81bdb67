"""Schedules, the releases that declare them, and the ticks for which no job was submitted."""

from __future__ import annotations

from collections.abc import Collection

from django.db import models
from django.db.models import Q

from esteira.models.clock import ClockTimestamp
from esteira.models.within import moments, spans


class Schedule(models.Model):
    """A job to submit at certain times. `origin`: "code", "gone" (no longer declared in code) or "database" (operator).

    `error` is why the last try to write its ticks failed, or a mistake found in them; after a failure the next try is
    made at `retry_at`. Only an operator changes `enabled`.
    """

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=120, unique=True)
    type = models.CharField(max_length=120)
    params = models.JSONField(default=dict, blank=True)
    cron = models.CharField(max_length=120, blank=True)
    tz = models.CharField(max_length=64, default="UTC")
    every_s = models.FloatField(default=0)
    overlap = models.CharField(max_length=8, default="allow")
    missed = models.CharField(max_length=8, default="once")
    grace_s = models.FloatField(default=60)
    enabled = models.BooleanField(default=True)
    origin = models.CharField(max_length=8, default="code")
    anchor_at = models.DateTimeField(db_default=ClockTimestamp())
    last_tick_at = models.DateTimeField(db_default=ClockTimestamp())
    gone_at = models.DateTimeField(null=True, editable=False)
    error = models.TextField(default="", db_default="", editable=False)
    error_at = models.DateTimeField(null=True, editable=False)
    failures = models.IntegerField(default=0, db_default=0, editable=False)
    retry_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(overlap__in=["allow", "skip", "queue"]), name="schedule_overlap"
            ),
            models.CheckConstraint(condition=Q(missed__in=["skip", "once", "all"]), name="schedule_missed"),
            models.CheckConstraint(
                condition=Q(origin__in=["code", "database", "gone"]), name="schedule_origin"
            ),
            models.CheckConstraint(
                condition=(Q(cron="") & Q(every_s__gte=1)) | (~Q(cron="") & Q(every_s=0)),
                name="schedule_cadence",
            ),
            models.CheckConstraint(
                condition=spans("every_s", "grace_s") & moments("anchor_at", "last_tick_at"),
                name="schedule_bounds",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def trouble(self, known_types: Collection[str]) -> str:
        """Return why this schedule makes no jobs although it is enabled; empty if it makes them."""
        if not self.enabled:
            return ""
        if self.origin == "gone":
            return (
                "No code declares this schedule any more; it makes no jobs until a release declares it again."
            )
        if self.error:
            tries = f" Tried {self.failures} times." if self.failures > 1 else ""
            return f"{self.error}{tries}"
        return "" if self.type in known_types else f"This release knows no job type {self.type}."


class Release(models.Model):
    """The schedules that the code of a process declares. Releases are ordered by id: a later one is newer."""

    id = models.BigAutoField(primary_key=True)
    fingerprint = models.TextField(unique=True)
    first_seen = models.DateTimeField(db_default=ClockTimestamp())
    last_seen = models.DateTimeField(db_default=ClockTimestamp())

    def __str__(self) -> str:
        return self.fingerprint


class ScheduleSkip(models.Model):
    """A tick for which no job was made, with the reason."""

    id = models.BigAutoField(primary_key=True)
    # Retention deletes skips by their age, whether or not their schedule still exists.
    schedule = models.ForeignKey(Schedule, on_delete=models.DO_NOTHING, db_index=False, db_constraint=False)
    tick_at = models.DateTimeField(db_index=True)
    reason = models.CharField(max_length=16)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["schedule", "tick_at"], name="skip_one_per_tick"),
            models.CheckConstraint(condition=moments("tick_at"), name="skip_moments"),
        ]
