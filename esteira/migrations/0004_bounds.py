"""Bounds as CHECK constraints: no stored moment or number that Python cannot read back, whoever wrote it.

Rows that are bad already are mended first, so that nobody meets a constraint which they break. Then each constraint is
added without a look at the rows (a short lock), what came in between is mended, and the constraint is validated, which
locks nobody out. Old and new processes go on meanwhile, and a migration that was cut off anywhere can be run again.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import migrations, models
from django.db.models import Q

FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
TEN_YEARS_S, DAY_S, MOST_PROGRESS, MOST_FAILURES = 316_224_000.0, 86_400.0, 1e15, 1001
MOMENTS = (
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


CONSTRAINTS = (
    ("job", models.CheckConstraint(condition=moments(*MOMENTS), name="job_moments")),
    (
        "job",
        models.CheckConstraint(
            condition=Q(max_failures__gte=1, max_failures__lte=MOST_FAILURES)
            & spans("backoff_s", "timeout_s")
            & spans("lease_s", least=1, most=DAY_S)
            & spans("progress_done", "progress_total", most=MOST_PROGRESS),
            name="job_numbers",
        ),
    ),
    (
        "schedule",
        models.CheckConstraint(
            condition=spans("every_s", "grace_s") & moments("anchor_at", "last_tick_at"),
            name="schedule_bounds",
        ),
    ),
    ("scheduleskip", models.CheckConstraint(condition=moments("tick_at"), name="skip_moments")),
)
EARLIEST, LATEST = f"'{FIRST.isoformat()}'::timestamptz", f"'{END.isoformat()}'::timestamptz"


def clamped(*columns: str) -> Mapping[str, str]:
    """Take the nearest moment inside; NULL stays, which LEAST and GREATEST would replace by a bound."""
    return {
        column: f"CASE WHEN {column} < {EARLIEST} THEN {EARLIEST} "
        f"WHEN {column} >= {LATEST} THEN {LATEST} - interval '1 second' ELSE {column} END"
        for column in columns
    }


def within(column: str, least: float, most: float) -> str:
    """NaN is greater than any number here, and becomes the most."""
    return f"CASE WHEN {column} < {least} THEN {least} WHEN {column} > {most} THEN {most} ELSE {column} END"


def known(column: str) -> str:
    """Progress that is no number is no progress."""
    return f"CASE WHEN {column} BETWEEN 0 AND {MOST_PROGRESS} THEN {column} END"


MENDED: Mapping[str, Mapping[str, str]] = {
    "job": {
        **clamped(*MOMENTS),
        # Two ticks at one nearest moment would be one tick: it is forgotten instead.
        "tick_at": f"CASE WHEN tick_at >= {EARLIEST} AND tick_at < {LATEST} THEN tick_at END",
        "max_failures": within("max_failures", 1, MOST_FAILURES),
        "backoff_s": within("backoff_s", 0, TEN_YEARS_S),
        "timeout_s": within("timeout_s", 0, TEN_YEARS_S),
        "lease_s": within("lease_s", 1, DAY_S),
        "progress_done": known("progress_done"),
        "progress_total": known("progress_total"),
    },
    "schedule": {
        **clamped("anchor_at", "last_tick_at"),
        "every_s": within("every_s", 0, TEN_YEARS_S),
        "grace_s": within("grace_s", 0, TEN_YEARS_S),
        # What was meant by such numbers is not known: the schedule waits until somebody has looked at it.
        "enabled": "false",
    },
    "scheduleskip": {},  # one beyond the bounds tells nothing, and is deleted
}


def mend(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for name, constraint in CONSTRAINTS:
            model = apps.get_model("esteira", name)
            changes = ", ".join(f"{column} = {value}" for column, value in MENDED[name].items())
            verb = f"UPDATE {model._meta.db_table} SET {changes}" if changes else f"DELETE FROM {model._meta.db_table}"
            cursor.execute(f"{verb} WHERE NOT ({constraint._get_check_sql(model, schema_editor)})", None)


def add(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for name, constraint in CONSTRAINTS:
            model = apps.get_model("esteira", name)
            cursor.execute(
                "SELECT 1 FROM pg_constraint WHERE conname = %s AND conrelid = %s::regclass",
                [constraint.name, model._meta.db_table],
            )
            if not cursor.fetchone():
                cursor.execute(f"{constraint.create_sql(model, schema_editor)} NOT VALID", None)


def validate(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for name, constraint in CONSTRAINTS:
            table = apps.get_model("esteira", name)._meta.db_table
            cursor.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint.name}")


def remove(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for name, constraint in CONSTRAINTS:
            table = apps.get_model("esteira", name)._meta.db_table
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint.name}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0003_totals")]
    operations = [
        migrations.RunPython(mend, migrations.RunPython.noop),
        migrations.RunPython(add, remove),
        migrations.RunPython(mend, migrations.RunPython.noop),
        migrations.RunPython(validate, migrations.RunPython.noop),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddConstraint(model_name=name, constraint=constraint)
                for name, constraint in CONSTRAINTS
            ]
        ),
    ]
