"""Deleting a schedule costs the same after ten jobs and after millions: nothing in its history is read or written.

Both foreign keys to schedules go. Only a job that waits or runs in turn needs its schedule to be there, because that
offers it; a trigger unbinds those few, whoever deletes the schedule. Ids of schedules are never given twice, so what
goes on naming a deleted one means no other.
"""

from typing import Any

from django.db import migrations, models
from django.db.models import DO_NOTHING

from esteira.online_migrations import LooseForeignKey, in_batches

TRIGGER = """
CREATE OR REPLACE FUNCTION esteira_unbind_turns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE esteira_job SET schedule_id = NULL
  WHERE schedule_id = OLD.id AND schedule_id IS NOT NULL AND state IN ('queued', 'running') AND in_turn;
  RETURN OLD;
END $$;

CREATE OR REPLACE TRIGGER esteira_schedule_turns BEFORE DELETE ON esteira_schedule FOR EACH ROW
EXECUTE FUNCTION esteira_unbind_turns();
"""
UNDO = """
DROP TRIGGER IF EXISTS esteira_schedule_turns ON esteira_schedule;
DROP FUNCTION IF EXISTS esteira_unbind_turns();
"""
UNBIND = """
UPDATE esteira_job j SET schedule_id = NULL
WHERE j.id >= %(start)s AND (%(end)s::uuid IS NULL OR j.id < %(end)s::uuid) AND j.schedule_id IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM esteira_schedule s WHERE s.id = j.schedule_id)
"""
DROP_SKIPS = """
DELETE FROM esteira_scheduleskip k WHERE NOT EXISTS (SELECT 1 FROM esteira_schedule s WHERE s.id = k.schedule_id)
"""


def unbind_jobs(connection: Any) -> None:
    in_batches(connection, "esteira_job", UNBIND)


def drop_skips(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(DROP_SKIPS)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0012_secrets")]
    operations = [
        # First, so that no schedule is deleted without it once the constraint has gone.
        migrations.RunSQL(TRIGGER, UNDO),
        LooseForeignKey(
            model_name="job",
            name="schedule",
            field=models.ForeignKey(
                db_constraint=False, db_index=False, null=True, on_delete=DO_NOTHING, to="esteira.schedule"
            ),
            mend=unbind_jobs,
        ),
        LooseForeignKey(
            model_name="scheduleskip",
            name="schedule",
            field=models.ForeignKey(
                db_constraint=False, db_index=False, on_delete=DO_NOTHING, to="esteira.schedule"
            ),
            mend=drop_skips,
        ),
    ]
