"""When what is submitted, and the ticks for which nothing was."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from esteira.models.clock import ClockTimestamp
from esteira.models.within import moments, spans


class Schedule(models.Model):
    """When to submit what. Declared in code (written by migrate only) or stored by an operator."""

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


class ScheduleSkip(models.Model):
    """A tick for which no job was made, and why."""

    id = models.BigAutoField(primary_key=True)
    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, db_index=False)
    tick_at = models.DateTimeField(db_index=True)
    reason = models.CharField(max_length=16)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["schedule", "tick_at"], name="skip_one_per_tick"),
            models.CheckConstraint(condition=moments("tick_at"), name="skip_moments"),
        ]
