"""The tables of `esteira.models`, as they are in 0.1.0; the next migration adds what models cannot express."""

from datetime import UTC, datetime, timedelta

from django.db import migrations
from django.db.models import (
    CASCADE,
    DO_NOTHING,
    BigAutoField,
    BigIntegerField,
    BinaryField,
    BooleanField,
    CharField,
    CheckConstraint,
    DateTimeField,
    F,
    Field,
    FloatField,
    ForeignKey,
    Index,
    IntegerField,
    JSONField,
    Q,
    SmallIntegerField,
    TextField,
    UniqueConstraint,
    UUIDField,
    Value,
)
from django.db.models.functions import Length
from django.db.models.lookups import GreaterThan, LessThan, LessThanOrEqual

from esteira.ids import uuid7
from esteira.models.clock import ClockTimestamp

FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
TEN_YEARS_S, DAY_S, MOST_PROGRESS, MOST_FAILURES = 316_224_000.0, 86_400.0, 1e15, 1001
MESSAGE_BYTES = 16 * 1024**2
OPEN, ENDED_BADLY = ["queued", "running"], ["cancelled", "dead", "expired", "failed"]
DELAY = F("run_at") - F("created_at")
UPLOAD = Q(job__isnull=True)


def queued(**more: bool) -> Q:
    return Q(state="queued", **more)


def moments(*fields: str) -> Q:
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": FIRST, f"{field}__lt": END})
    return found


def spans(*fields: str, least: float = 0.0, most: float = TEN_YEARS_S) -> Q:
    found = Q()
    for field in fields:
        found &= Q(**{f"{field}__gte": least, f"{field}__lte": most})
    return found


def at_most(field: str, most: int) -> Q:
    return Q(LessThanOrEqual(Length(field), most))


def expiry(name: str) -> Index:
    return Index(fields=["expires_at"], condition=Q(expires_at__isnull=False), name=f"task_{name}_expiry")


def bounds(name: str, *more: str) -> list[CheckConstraint]:
    """Bound the payload and the moments of a table of tasks."""
    return [
        CheckConstraint(condition=at_most("payload", MESSAGE_BYTES), name=f"task_{name}_size"),
        CheckConstraint(condition=moments(*more, "expires_at"), name=f"task_{name}_moments"),
    ]


def key() -> CharField:
    return CharField(max_length=250, primary_key=True, serialize=False)


def serial() -> BigAutoField:
    return BigAutoField(primary_key=True, serialize=False)


def clock(**how: bool) -> DateTimeField:
    return DateTimeField(db_default=ClockTimestamp(), **how)


def counts() -> list[tuple[str, Field]]:
    below = ("1ms", "10ms", "50ms", "100ms", "500ms", "1s", "5s", "10s", "1min", "5min", "1h")
    return [
        ("id", serial()),
        ("type", CharField(max_length=120)),
        ("queue", CharField(max_length=60)),
        ("state", CharField(max_length=10)),
        ("n", BigIntegerField(db_default=0)),
        ("sum_ms", FloatField(db_default=0)),
        *((f"below_{bound}", BigIntegerField(db_default=0)) for bound in below),
        ("longer", BigIntegerField(db_default=0)),
    ]


SCHEDULES = [
    migrations.CreateModel(
        name="Schedule",
        fields=[
            ("id", serial()),
            ("name", CharField(max_length=120, unique=True)),
            ("type", CharField(max_length=120)),
            ("params", JSONField(blank=True, default=dict)),
            ("cron", CharField(blank=True, max_length=120)),
            ("tz", CharField(default="UTC", max_length=64)),
            ("every_s", FloatField(default=0)),
            ("overlap", CharField(default="allow", max_length=8)),
            ("missed", CharField(default="once", max_length=8)),
            ("grace_s", FloatField(default=60)),
            ("enabled", BooleanField(default=True)),
            ("origin", CharField(default="code", max_length=8)),
            ("anchor_at", clock()),
            ("last_tick_at", clock()),
            ("error", TextField(db_default="", default="", editable=False)),
            ("error_at", DateTimeField(editable=False, null=True)),
            ("failures", IntegerField(db_default=0, default=0, editable=False)),
            ("retry_at", DateTimeField(editable=False, null=True)),
            ("gone_at", DateTimeField(editable=False, null=True)),
        ],
        options={
            "constraints": [
                CheckConstraint(condition=Q(overlap__in=["allow", "skip", "queue"]), name="schedule_overlap"),
                CheckConstraint(condition=Q(missed__in=["skip", "once", "all"]), name="schedule_missed"),
                CheckConstraint(condition=Q(origin__in=["code", "database", "gone"]), name="schedule_origin"),
                CheckConstraint(
                    condition=(Q(cron="") & Q(every_s__gte=1)) | (~Q(cron="") & Q(every_s=0)),
                    name="schedule_cadence",
                ),
                CheckConstraint(
                    condition=spans("every_s", "grace_s") & moments("anchor_at", "last_tick_at"),
                    name="schedule_bounds",
                ),
            ],
        },
    ),
    migrations.CreateModel(
        name="ScheduleSkip",
        fields=[
            ("id", serial()),
            ("tick_at", DateTimeField(db_index=True)),
            ("reason", CharField(max_length=16)),
            (
                "schedule",
                ForeignKey(db_constraint=False, db_index=False, on_delete=DO_NOTHING, to="esteira.schedule"),
            ),
        ],
        options={
            "constraints": [
                UniqueConstraint(fields=("schedule", "tick_at"), name="skip_one_per_tick"),
                CheckConstraint(condition=moments("tick_at"), name="skip_moments"),
            ],
        },
    ),
    migrations.CreateModel(
        name="Release",
        fields=[
            ("id", serial()),
            ("fingerprint", TextField(unique=True)),
            ("first_seen", clock()),
            ("last_seen", clock()),
        ],
    ),
]
JOB_FIELDS = [
    ("id", UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False)),
    ("type", CharField(max_length=120)),
    ("params", JSONField(default=dict)),
    ("queue", CharField(default="default", max_length=60)),
    ("priority", SmallIntegerField(default=6)),
    ("state", CharField(db_default="queued", max_length=10)),
    ("created_at", clock()),
    ("run_at", clock()),
    ("expires_at", DateTimeField(null=True)),
    ("published_at", DateTimeField(null=True)),
    ("hold_until", DateTimeField(null=True)),
    ("refused_since", DateTimeField(null=True)),
    ("attempt", IntegerField(db_default=0)),
    ("failures", IntegerField(db_default=0)),
    ("max_failures", IntegerField(default=4)),
    ("backoff_s", FloatField(default=2)),
    ("suspicion", SmallIntegerField(db_default=0)),
    ("solo", BooleanField(db_default=False)),
    ("batched", BooleanField(db_default=False)),
    ("worker", TextField(null=True)),
    ("delivery", TextField(null=True)),
    ("lease_s", FloatField(default=10)),
    ("lease_until", DateTimeField(null=True)),
    ("timeout_s", FloatField(default=600)),
    ("claimed_at", DateTimeField(null=True)),
    ("started_at", DateTimeField(null=True)),
    ("finished_at", DateTimeField(null=True)),
    ("cancel_requested_at", DateTimeField(null=True)),
    ("cancel_by", TextField(db_default="")),
    ("cancel_force", BooleanField(db_default=False)),
    ("result", JSONField(null=True)),
    ("error", JSONField(null=True)),
    ("progress_done", FloatField(null=True)),
    ("progress_total", FloatField(null=True)),
    ("progress_text", TextField(db_default="")),
    ("unique_key", TextField(null=True)),
    ("tick_at", DateTimeField(null=True)),
    ("in_turn", BooleanField(db_default=False)),
    ("submitted_by", TextField(db_default="")),
    (
        "schedule",
        ForeignKey(
            db_constraint=False, db_index=False, null=True, on_delete=DO_NOTHING, to="esteira.schedule"
        ),
    ),
    ("interrupted", BooleanField(db_default=False)),
    ("account", TextField(null=True)),
    ("secret_names", TextField(null=True)),
    ("message", BinaryField(null=True)),
    ("task_id", TextField(null=True)),
    ("settled", BooleanField(db_default=False)),
]
JOB_CONSTRAINTS = [
    CheckConstraint(
        condition=Q(state__in=["queued", "running", "succeeded", "failed", "dead", "cancelled", "expired"]),
        name="job_state",
    ),
    CheckConstraint(condition=Q(priority__in=[3, 6, 9]), name="job_priority"),
    CheckConstraint(
        condition=~Q(state="running")
        | Q(worker__isnull=False, lease_until__isnull=False, claimed_at__isnull=False),
        name="job_running_has_lease",
    ),
    CheckConstraint(
        condition=~queued() | Q(worker__isnull=True, lease_until__isnull=True), name="job_queued_has_no_lease"
    ),
    CheckConstraint(
        condition=Q(state__in=[*ENDED_BADLY, "succeeded"], finished_at__isnull=False)
        | Q(state__in=OPEN, finished_at__isnull=True),
        name="job_ended_has_end",
    ),
    CheckConstraint(
        condition=~Q(state__in=["failed", "dead"]) | Q(error__isnull=False), name="job_failed_has_error"
    ),
    CheckConstraint(condition=Q(result__isnull=True) | Q(state="succeeded"), name="job_result_means_success"),
    CheckConstraint(
        condition=Q(attempt__gte=0, failures__gte=0, failures__lte=F("attempt"), suspicion__gte=0),
        name="job_counts",
    ),
    CheckConstraint(
        condition=moments(
            *("created_at", "run_at", "expires_at", "published_at", "hold_until", "refused_since"),
            *("lease_until", "claimed_at", "started_at", "finished_at", "cancel_requested_at", "tick_at"),
        ),
        name="job_moments",
    ),
    CheckConstraint(
        condition=Q(max_failures__gte=1, max_failures__lte=MOST_FAILURES)
        & spans("backoff_s", "timeout_s")
        & spans("lease_s", least=1, most=DAY_S)
        & spans("progress_done", "progress_total", most=MOST_PROGRESS),
        name="job_numbers",
    ),
    CheckConstraint(
        condition=Q(message__isnull=True)
        | (at_most("message", MESSAGE_BYTES) & (Q(task_id__isnull=True) | at_most("task_id", 250))),
        name="job_message_size",
    ),
    UniqueConstraint(
        fields=("unique_key",), condition=Q(state__in=OPEN, unique_key__isnull=False), name="job_unique_key"
    ),
    UniqueConstraint(
        fields=("schedule", "tick_at"), condition=Q(tick_at__isnull=False), name="job_one_per_tick"
    ),
    UniqueConstraint(
        fields=("schedule",), condition=Q(state="running", in_turn=True), name="job_one_in_turn"
    ),
]
JOB_INDEXES = [
    Index(
        fields=["queue", "priority", "type", "in_turn", "run_at", "id"],
        condition=queued(published_at__isnull=True),
        name="job_to_publish",
    ),
    Index(
        fields=["schedule", "tick_at", "id"],
        condition=queued(published_at__isnull=True, in_turn=True),
        name="job_turns",
    ),
    Index(
        fields=["schedule"],
        condition=queued(published_at__isnull=False, in_turn=True),
        name="job_turn_offered",
    ),
    Index(fields=["published_at", "id"], condition=queued(published_at__isnull=False), name="job_window"),
    Index(fields=["claimed_at"], condition=Q(state="running"), name="job_claimed"),
    Index(fields=["expires_at"], condition=queued(expires_at__isnull=False), name="job_expiry"),
    Index(fields=["finished_at"], condition=Q(finished_at__isnull=False), name="job_finished"),
    Index(fields=["account", "created_at", "id"], condition=Q(account__isnull=False), name="job_account"),
    Index(fields=["task_id"], condition=Q(task_id__isnull=False), name="job_task_id"),
    Index(
        fields=["finished_at"],
        condition=Q(state__in=ENDED_BADLY, message__isnull=False, settled=False),
        name="job_unsettled",
    ),
    Index(fields=["schedule"], condition=Q(state__in=OPEN, schedule__isnull=False), name="job_schedule_open"),
    Index(
        fields=["queue", "type"],
        condition=queued(published_at__isnull=True, interrupted=True),
        name="job_front",
    ),
    Index(fields=["state", "created_at", "id"], condition=Q(state__in=ENDED_BADLY), name="job_ended_badly"),
    Index(
        GreaterThan(F("failures"), Value(0)),
        F("created_at"),
        F("id"),
        condition=queued()
        & (Q(GreaterThan(DELAY, timedelta(seconds=1))) | Q(LessThan(DELAY, timedelta(seconds=-1)))),
        name="job_later",
    ),
]
JOBS = [
    migrations.CreateModel(
        name="Job",
        fields=JOB_FIELDS,
        options={"base_manager_name": "objects", "constraints": JOB_CONSTRAINTS, "indexes": JOB_INDEXES},
    ),
    migrations.CreateModel(
        name="JobEvent",
        fields=[
            ("id", serial()),
            ("at", clock()),
            ("kind", CharField(max_length=16)),
            ("attempt", IntegerField(default=0)),
            ("worker", TextField(default="")),
            ("by", TextField(default="")),
            ("detail", JSONField(default=dict)),
            ("job", ForeignKey(on_delete=CASCADE, related_name="events", to="esteira.job")),
        ],
        options={"ordering": ["id"]},
    ),
    migrations.CreateModel(
        name="JobLog",
        fields=[
            ("id", serial()),
            ("attempt", IntegerField()),
            ("at", clock()),
            ("text", TextField()),
            ("job", ForeignKey(on_delete=CASCADE, related_name="logs", to="esteira.job")),
        ],
        options={"ordering": ["id"]},
    ),
]
FILES = [
    migrations.CreateModel(
        name="File",
        fields=[
            ("id", UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False)),
            ("attempt", IntegerField(null=True)),
            ("name", CharField(max_length=255)),
            ("content_type", CharField(default="application/octet-stream", max_length=120)),
            ("size", BigIntegerField(default=0)),
            ("sha256", CharField(blank=True, max_length=64)),
            ("created_at", clock()),
            ("attached_at", DateTimeField(null=True)),
            (
                "job",
                ForeignKey(
                    db_index=False, null=True, on_delete=CASCADE, related_name="files", to="esteira.job"
                ),
            ),
            ("account", CharField(blank=True, db_default="", default="", max_length=64)),
        ],
        options={
            "constraints": [
                CheckConstraint(
                    condition=Q(job__isnull=True, attempt__isnull=True)
                    | Q(job__isnull=False, attempt__isnull=False),
                    name="file_result_has_attempt",
                ),
                UniqueConstraint(
                    fields=("job", "attempt", "name"),
                    condition=Q(job__isnull=False),
                    name="file_one_name_per_attempt",
                ),
            ],
            "indexes": [
                Index(fields=["account", "created_at"], condition=UPLOAD, name="file_account"),
                Index(fields=["created_at"], condition=UPLOAD, name="file_upload"),
                Index(
                    fields=["created_at"],
                    condition=Q(attached_at__isnull=True) & (Q(sha256="") | Q(job__isnull=False)),
                    name="file_loose",
                ),
            ],
        },
    ),
    migrations.CreateModel(
        name="FileChunk",
        fields=[
            ("id", serial()),
            ("seq", IntegerField()),
            ("data", BinaryField()),
            ("file", ForeignKey(db_index=False, on_delete=CASCADE, to="esteira.file")),
        ],
        options={"constraints": [UniqueConstraint(fields=("file", "seq"), name="chunk_once")]},
    ),
    migrations.CreateModel(
        name="FileUse",
        fields=[
            ("id", serial()),
            (
                "job",
                ForeignKey(
                    db_constraint=False,
                    db_index=False,
                    on_delete=CASCADE,
                    related_name="uses",
                    to="esteira.job",
                ),
            ),
            (
                "file",
                ForeignKey(db_constraint=False, on_delete=CASCADE, related_name="uses", to="esteira.file"),
            ),
        ],
        options={"constraints": [UniqueConstraint(fields=("job", "file"), name="file_use_once")]},
    ),
]
RUNNING = [
    migrations.CreateModel(
        name="Queue",
        fields=[
            ("name", CharField(max_length=60, primary_key=True, serialize=False)),
            ("paused_at", DateTimeField(null=True)),
            ("paused_by", TextField(default="")),
            ("reason", TextField(default="")),
        ],
    ),
    migrations.CreateModel(
        name="Worker",
        fields=[
            ("name", TextField(primary_key=True, serialize=False)),
            ("incarnation", TextField()),
            ("host", TextField()),
            ("pid", IntegerField()),
            ("queues", JSONField(default=list)),
            ("types", JSONField(default=list)),
            ("slots", IntegerField(default=0)),
            ("state", CharField(default="up", max_length=8)),
            ("started_at", clock()),
            ("last_seen", clock()),
        ],
    ),
    migrations.CreateModel(
        name="Keeper",
        fields=[
            ("id", SmallIntegerField(primary_key=True, serialize=False)),
            ("last_sweep", DateTimeField(null=True)),
            ("hold_until", DateTimeField(null=True)),
            ("database_started_at", DateTimeField(null=True)),
            ("failing", JSONField(db_default=Value({}, JSONField()), default=dict)),
            ("last_turn", DateTimeField(null=True)),
        ],
        options={"constraints": [CheckConstraint(condition=Q(id=1), name="keeper_one_row")]},
    ),
    migrations.CreateModel(
        name="IdempotencyKey",
        fields=[
            ("id", serial()),
            ("scope", TextField()),
            ("key", TextField()),
            ("body_hash", BinaryField()),
            ("answer", JSONField(null=True)),
            ("created_at", clock(db_index=True)),
        ],
        options={"constraints": [UniqueConstraint(fields=("scope", "key"), name="idempotency_once")]},
    ),
    migrations.CreateModel(
        name="Backup",
        fields=[
            ("step", TextField(primary_key=True, serialize=False)),
            ("succeeded_at", DateTimeField(null=True)),
            ("failed_at", DateTimeField(null=True)),
        ],
    ),
]
STATS = [
    migrations.CreateModel(
        name="Stat",
        fields=[*counts(), ("minute", DateTimeField())],
        options={
            "constraints": [UniqueConstraint(fields=("minute", "type", "queue", "state"), name="stat_once")]
        },
    ),
    migrations.CreateModel(
        name="StatTotal",
        fields=counts(),
        options={
            "constraints": [UniqueConstraint(fields=("type", "queue", "state"), name="stat_total_once")]
        },
    ),
]
TASKS = [
    migrations.CreateModel(
        name="TaskResult",
        fields=[
            ("task_id", key()),
            ("state", CharField(max_length=50)),
            ("payload", BinaryField()),
            ("expires_at", DateTimeField(null=True)),
        ],
        options={"constraints": bounds("result"), "indexes": [expiry("result")]},
    ),
    migrations.CreateModel(
        name="TaskGroup",
        fields=[
            ("group_id", key()),
            ("payload", BinaryField()),
            ("expires_at", DateTimeField(null=True)),
        ],
        options={"constraints": bounds("group"), "indexes": [expiry("group")]},
    ),
    migrations.CreateModel(
        name="TaskChord",
        fields=[
            ("chord_id", key()),
            ("size", IntegerField(null=True)),
            ("added", IntegerField(db_default=0)),
            ("counted", IntegerField(db_default=0)),
            ("ended", BooleanField(db_default=False)),
            ("expires_at", DateTimeField(null=True)),
        ],
        options={
            "constraints": [
                CheckConstraint(condition=Q(size__gte=0) | Q(size__isnull=True), name="task_chord_size"),
                CheckConstraint(condition=Q(added__gte=0, counted__gte=0), name="task_chord_counts"),
                CheckConstraint(condition=moments("expires_at"), name="task_chord_moments"),
            ],
            "indexes": [expiry("chord")],
        },
    ),
    migrations.CreateModel(
        name="TaskChordPart",
        fields=[
            ("id", serial()),
            ("task_id", CharField(max_length=250)),
            ("place", IntegerField(null=True)),
            ("payload", BinaryField()),
            (
                "chord",
                ForeignKey(
                    db_index=False, on_delete=CASCADE, related_name="parts", to="esteira.taskchord"
                ),
            ),
        ],
        options={
            "constraints": [
                UniqueConstraint(fields=("chord", "task_id"), name="task_chord_part_once"),
                CheckConstraint(condition=at_most("payload", MESSAGE_BYTES), name="task_chord_part_size"),
            ]
        },
    ),
    migrations.CreateModel(
        name="TaskRevoked",
        fields=[
            ("task_id", key()),
            ("revoked_at", clock()),
            ("expires_at", DateTimeField(null=True)),
        ],
        options={
            "constraints": [
                CheckConstraint(condition=moments("revoked_at", "expires_at"), name="task_revoked_moments")
            ],
            "indexes": [expiry("revoked")],
        },
    ),
]


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [*SCHEDULES, *JOBS, *FILES, *RUNNING, *STATS, *TASKS]
