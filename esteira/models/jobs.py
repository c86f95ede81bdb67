"""A job: its row is the source of truth, the outbox entry and the lock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.lookups import GreaterThan, LessThan

from esteira.ids import uuid7
from esteira.job_types.request import PRIORITY_NAMES
from esteira.models.clock import ClockManager, ClockTimestamp
from esteira.models.schedules import Schedule
from esteira.models.within import at_most, moments, progresses, spans
from esteira.states import ENDED, RETRYABLE, State, shown_state, tries
from esteira.values import readable
from esteira.values.bounds import LEASE, MESSAGE_BYTES, RETRIES, TASK_ID

_ENDED = sorted(ENDED)
_MOMENTS = (
    "created_at",
    "run_at",
    "expires_at",
    "published_at",
    "hold_until",
    "refused_since",
    "lease_until",
    "claimed_at",
    "started_at",
    "finished_at",
    "cancel_requested_at",
    "tick_at",
)
_QUEUED, _RUNNING = Q(state="queued"), Q(state="running")
_DELAY = F("run_at") - F("created_at")
#: How far `run_at` may be from `created_at` in a job that was due when it was submitted.
PROMPT_S = 1


class Jobs(ClockManager["Job"]):
    """Leaves out the messages of tasks, which may be long, and which only `esteira.record` reads."""

    def get_queryset(self) -> models.QuerySet[Job]:
        return super().get_queryset().defer("message")


class Job(models.Model):
    """One request to run a job type."""

    objects: ClassVar[Jobs] = Jobs()
    #: The database's clock when this row was read; missing in a job that was never read.
    db_now: datetime

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    type = models.CharField(max_length=120)
    params = models.JSONField(default=dict)
    queue = models.CharField(max_length=60, default="default")
    priority = models.SmallIntegerField(default=6)
    state = models.CharField(max_length=10, db_default="queued")
    created_at = models.DateTimeField(db_default=ClockTimestamp())
    run_at = models.DateTimeField(db_default=ClockTimestamp())
    expires_at = models.DateTimeField(null=True)
    published_at = models.DateTimeField(null=True)
    hold_until = models.DateTimeField(null=True)
    refused_since = models.DateTimeField(null=True)
    # The fence: increased by every claim, never reset.
    attempt = models.IntegerField(db_default=0)
    failures = models.IntegerField(db_default=0)
    max_failures = models.IntegerField(default=4)
    backoff_s = models.FloatField(default=2)
    suspicion = models.SmallIntegerField(db_default=0)
    solo = models.BooleanField(db_default=False)
    batched = models.BooleanField(db_default=False)
    # Its last attempt started and was interrupted, not by its own fault: it is published before new jobs.
    interrupted = models.BooleanField(db_default=False)
    worker = models.TextField(null=True)
    delivery = models.TextField(null=True)
    lease_s = models.FloatField(default=10)
    lease_until = models.DateTimeField(null=True)
    timeout_s = models.FloatField(default=600)
    claimed_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    cancel_by = models.TextField(db_default="")
    cancel_force = models.BooleanField(db_default=False)
    result = models.JSONField(null=True)
    error = models.JSONField(null=True)
    progress_done = models.FloatField(null=True)
    progress_total = models.FloatField(null=True)
    progress_text = models.TextField(db_default="")
    unique_key = models.TextField(null=True)
    # A schedule may have made millions of jobs, so its deletion reads none of them: they keep its id, and are shown as
    # jobs without a schedule. A trigger removes the id only from jobs that wait or run in turn.
    schedule = models.ForeignKey(
        Schedule, null=True, on_delete=models.DO_NOTHING, db_index=False, db_constraint=False
    )
    tick_at = models.DateTimeField(null=True)
    # Only one job of its schedule may run at a time (overlap "queue").
    in_turn = models.BooleanField(db_default=False)
    # Text for users; the name may belong to another account by now.
    submitted_by = models.TextField(db_default="")
    # The account, as `esteira_web.accounts.roles` names it; null if Python or a schedule submitted the job.
    account = models.TextField(null=True)
    # Names of parameters, separated by commas, that a trigger removes when the job succeeded, was cancelled or expired.
    secret_names = models.TextField(null=True)
    # The message of an adopted Celery task, as kombu would push it into Redis; null for jobs of `@job` types.
    message = models.BinaryField(null=True)
    # The task's id for its caller; several sends may have the same one.
    task_id = models.TextField(null=True)
    # Whether everything that follows from the end of a task is recorded: result, chord part, rest of the chain.
    settled = models.BooleanField(db_default=False)

    class Meta:
        # The job of an event or of a file is read by this manager.
        base_manager_name = "objects"
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[str(s) for s in State]), name="job_state"),
            models.CheckConstraint(condition=Q(priority__in=list(PRIORITY_NAMES)), name="job_priority"),
            models.CheckConstraint(
                condition=~_RUNNING
                | Q(worker__isnull=False, lease_until__isnull=False, claimed_at__isnull=False),
                name="job_running_has_lease",
            ),
            models.CheckConstraint(
                condition=~_QUEUED | Q(worker__isnull=True, lease_until__isnull=True),
                name="job_queued_has_no_lease",
            ),
            models.CheckConstraint(
                condition=Q(state__in=_ENDED, finished_at__isnull=False)
                | Q(state__in=["queued", "running"], finished_at__isnull=True),
                name="job_ended_has_end",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["failed", "dead"]) | Q(error__isnull=False),
                name="job_failed_has_error",
            ),
            models.CheckConstraint(
                condition=Q(result__isnull=True) | Q(state="succeeded"), name="job_result_means_success"
            ),
            models.CheckConstraint(
                condition=Q(attempt__gte=0, failures__gte=0, failures__lte=F("attempt"), suspicion__gte=0),
                name="job_counts",
            ),
            models.CheckConstraint(condition=moments(*_MOMENTS), name="job_moments"),
            models.CheckConstraint(
                condition=Q(max_failures__gte=1, max_failures__lte=RETRIES.most + 1)
                & spans("backoff_s", "timeout_s")
                & spans("lease_s", least=LEASE.least, most=LEASE.most)
                & progresses("progress_done", "progress_total"),
                name="job_numbers",
            ),
            models.CheckConstraint(
                condition=Q(message__isnull=True)
                | (
                    at_most("message", MESSAGE_BYTES)
                    & (Q(task_id__isnull=True) | at_most("task_id", TASK_ID.most))
                ),
                name="job_message_size",
            ),
            models.UniqueConstraint(
                fields=["unique_key"],
                condition=Q(state__in=["queued", "running"], unique_key__isnull=False),
                name="job_unique_key",
            ),
            models.UniqueConstraint(
                fields=["schedule", "tick_at"], condition=Q(tick_at__isnull=False), name="job_one_per_tick"
            ),
            models.UniqueConstraint(
                fields=["schedule"], condition=Q(state="running", in_turn=True), name="job_one_in_turn"
            ),
        ]
        indexes = [
            # Jobs that wait for their turn are in separate ranges, which publishing does not read.
            models.Index(
                fields=["queue", "priority", "type", "in_turn", "run_at", "id"],
                condition=Q(state="queued", published_at__isnull=True),
                name="job_to_publish",
            ),
            models.Index(
                fields=["schedule", "tick_at", "id"],
                condition=Q(state="queued", published_at__isnull=True, in_turn=True),
                name="job_turns",
            ),
            models.Index(
                fields=["schedule"],
                condition=Q(state="queued", published_at__isnull=False, in_turn=True),
                name="job_turn_offered",
            ),
            models.Index(
                fields=["published_at", "id"],
                condition=Q(state="queued", published_at__isnull=False),
                name="job_window",
            ),
            # By the moment of the claim, so that the keeper reads each claim's entry once; see `esteira.db.walk`.
            models.Index(fields=["claimed_at"], condition=_RUNNING, name="job_claimed"),
            models.Index(
                fields=["expires_at"],
                condition=Q(state="queued", expires_at__isnull=False),
                name="job_expiry",
            ),
            models.Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="job_finished"),
            models.Index(
                fields=["account", "created_at", "id"],
                condition=Q(account__isnull=False),
                name="job_account",
            ),
            models.Index(fields=["task_id"], condition=Q(task_id__isnull=False), name="job_task_id"),
            models.Index(
                fields=["finished_at"],
                condition=Q(state__in=sorted(RETRYABLE), message__isnull=False, settled=False),
                name="job_unsettled",
            ),
            models.Index(
                fields=["schedule"],
                condition=Q(state__in=["queued", "running"], schedule__isnull=False),
                name="job_schedule_open",
            ),
            models.Index(
                fields=["queue", "type"],
                condition=Q(state="queued", published_at__isnull=True, interrupted=True),
                name="job_front",
            ),
            # For searches in lists (`esteira.search`): few jobs end badly or wait for later, so these are small.
            models.Index(
                fields=["state", "created_at", "id"],
                condition=Q(state__in=sorted(RETRYABLE)),
                name="job_ended_badly",
            ),
            models.Index(
                GreaterThan(F("failures"), Value(0)),
                F("created_at"),
                F("id"),
                condition=_QUEUED
                & (
                    Q(GreaterThan(_DELAY, timedelta(seconds=PROMPT_S)))
                    | Q(LessThan(_DELAY, timedelta(seconds=-PROMPT_S)))
                ),
                name="job_later",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"

    @property
    def tries(self) -> int:
        """The number of its `max_tries` that the job has used, see `states.tries`."""
        return tries(self.state, self.failures)

    @property
    def max_tries(self) -> int:
        return self.max_failures

    @property
    def forgot_secrets(self) -> bool:
        """Whether its secret parameters were removed at its end, so that it cannot be retried."""
        return self.secret_names is not None and self.state in ("succeeded", "cancelled", "expired")

    @property
    def priority_name(self) -> str:
        return PRIORITY_NAMES.get(self.priority, str(self.priority))

    @property
    def broken(self) -> list[str]:
        """The names of fields whose stored values cannot be shown; an undamaged database has none."""
        return readable.broken(
            self,
            moments=_MOMENTS,
            numbers=("progress_done", "progress_total"),
            objects=("error", "params"),
        )

    @property
    def shown_state(self) -> str:
        """The state as users see it, at the moment when the row was read."""
        return shown_state(self.state, failures=self.failures, run_at=self.run_at, now=self.db_now)
