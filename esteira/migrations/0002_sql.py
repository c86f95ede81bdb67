"""What Django's models cannot express: triggers, a view, two foreign keys that cascade, and how tables are stored.

The WHEN clauses of the triggers on jobs are evaluated without calling a function, so they cost nothing for an update
that no trigger concerns. Triggers apply to every statement, from every process and release.
"""

from django.db import migrations

# The arrows of esteira/states.py, and no others. T13, the only transition out of an end state, is recognized by a
# setting of its transaction.
ARROWS = """
CREATE FUNCTION esteira_refuse_arrow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'job %: % (attempt %) -> % (attempt %) is no legal transition',
    OLD.id, OLD.state, OLD.attempt, NEW.state, NEW.attempt USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER esteira_job_arrow BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (
  NEW.attempt < OLD.attempt
  OR (OLD.state = 'queued' AND NEW.state = 'running' AND NEW.attempt = OLD.attempt)
  OR (OLD.state = 'running' AND NEW.state = 'running' AND NEW.attempt <> OLD.attempt)
  OR (OLD.state = 'queued' AND NEW.state NOT IN ('queued', 'running', 'cancelled', 'expired'))
  OR (OLD.state = 'running' AND NEW.state NOT IN ('queued', 'running', 'succeeded', 'failed', 'dead', 'cancelled'))
  OR (OLD.state = 'succeeded' AND NEW.state <> 'succeeded')
  OR (OLD.state IN ('failed', 'dead', 'cancelled', 'expired') AND NEW.state <> OLD.state
      AND NOT (NEW.state = 'queued' AND coalesce(current_setting('esteira.transition', true), '') = 'T13'))
) EXECUTE FUNCTION esteira_refuse_arrow();
"""
NO_ARROWS = "DROP TRIGGER esteira_job_arrow ON esteira_job; DROP FUNCTION esteira_refuse_arrow();"

# A job that will never run again needs no secret parameters. A failed or dead job keeps them for an operator's retry.
SECRETS = """
CREATE FUNCTION esteira_forget_secrets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.params := NEW.params - string_to_array(NEW.secret_names, ',');
  RETURN NEW;
END $$;

CREATE TRIGGER esteira_job_secrets BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (
  NEW.secret_names IS NOT NULL AND NEW.state IN ('succeeded', 'cancelled', 'expired') AND OLD.state <> NEW.state
  AND jsonb_typeof(NEW.params) = 'object'
) EXECUTE FUNCTION esteira_forget_secrets();
"""
NO_SECRETS = "DROP TRIGGER esteira_job_secrets ON esteira_job; DROP FUNCTION esteira_forget_secrets();"

# Deleting a schedule costs the same after ten jobs and after millions, because no foreign key searches for its jobs.
# Only a job that waits or runs in turn needs its schedule to exist. PostgreSQL never reuses the id of a deleted
# schedule.
TURNS = """
CREATE FUNCTION esteira_unbind_turns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE esteira_job SET schedule_id = NULL
  WHERE schedule_id = OLD.id AND schedule_id IS NOT NULL AND state IN ('queued', 'running') AND in_turn;
  RETURN OLD;
END $$;

CREATE TRIGGER esteira_schedule_turns BEFORE DELETE ON esteira_schedule FOR EACH ROW
EXECUTE FUNCTION esteira_unbind_turns();
"""
NO_TURNS = "DROP TRIGGER esteira_schedule_turns ON esteira_schedule; DROP FUNCTION esteira_unbind_turns();"

# Retention never deletes totals: a trigger adds every change of a minute's row to its total.
COUNTS = (
    *("n", "sum_ms", "below_1ms", "below_10ms", "below_50ms", "below_100ms", "below_500ms", "below_1s"),
    *("below_5s", "below_10s", "below_1min", "below_5min", "below_1h", "longer"),
)
TOTALS = f"""
CREATE FUNCTION esteira_add_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO esteira_stattotal AS t (type, queue, state, {", ".join(COUNTS)})
  VALUES (NEW.type, NEW.queue, NEW.state, {", ".join(f"NEW.{one} - coalesce(OLD.{one}, 0)" for one in COUNTS)})
  ON CONFLICT (type, queue, state) DO UPDATE
  SET {", ".join(f"{one} = t.{one} + excluded.{one}" for one in COUNTS)};
  RETURN NULL;
END $$;

CREATE TRIGGER esteira_stat_total AFTER INSERT OR UPDATE ON esteira_stat
  FOR EACH ROW EXECUTE FUNCTION esteira_add_up();
"""
NO_TOTALS = "DROP TRIGGER esteira_stat_total ON esteira_stat; DROP FUNCTION esteira_add_up();"

# PostgreSQL deletes the uses of a file together with their job or file; statements that delete those ignore them.
USES = """
ALTER TABLE esteira_fileuse
  ADD CONSTRAINT file_use_job FOREIGN KEY (job_id) REFERENCES esteira_job ON DELETE CASCADE,
  ADD CONSTRAINT file_use_file FOREIGN KEY (file_id) REFERENCES esteira_file ON DELETE CASCADE;
"""
NO_USES = "ALTER TABLE esteira_fileuse DROP CONSTRAINT file_use_job, DROP CONSTRAINT file_use_file;"

# The backlog: each list in which jobs without a hint wait. A list is a range of the index job_to_publish, with due jobs
# first, and a reader takes as much as it needs from each range. The query goes from list to list, so it reads one entry
# of the index for each list, however many jobs wait. PostgreSQL changes the type of a column that a view uses only
# after the view was dropped.
BACKLOG = """
CREATE VIEW esteira_backlog AS
WITH RECURSIVE lists (queue, priority, type, in_turn) AS (
  (SELECT j.queue, j.priority, j.type, j.in_turn FROM esteira_job j
   WHERE j.state = 'queued' AND j.published_at IS NULL
   ORDER BY j.queue, j.priority, j.type, j.in_turn LIMIT 1)
  UNION ALL
  SELECT later.queue, later.priority, later.type, later.in_turn FROM lists k CROSS JOIN LATERAL (
    SELECT j.queue, j.priority, j.type, j.in_turn FROM esteira_job j
    WHERE j.state = 'queued' AND j.published_at IS NULL
      AND (j.queue, j.priority, j.type, j.in_turn) > (k.queue, k.priority, k.type, k.in_turn)
    ORDER BY j.queue, j.priority, j.type, j.in_turn LIMIT 1) AS later)
SELECT queue, priority, type, in_turn FROM lists;
"""
NO_BACKLOG = "DROP VIEW esteira_backlog;"

STORAGE = """
ALTER TABLE esteira_job SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE esteira_filechunk ALTER COLUMN data SET STORAGE EXTERNAL;
"""
KEEPER = "INSERT INTO esteira_keeper (id) VALUES (1) ON CONFLICT DO NOTHING;"


class Migration(migrations.Migration):
    dependencies = [("esteira", "0001_first")]
    operations = [
        migrations.RunSQL(ARROWS, NO_ARROWS),
        migrations.RunSQL(SECRETS, NO_SECRETS),
        migrations.RunSQL(TURNS, NO_TURNS),
        migrations.RunSQL(TOTALS, NO_TOTALS),
        migrations.RunSQL(USES, NO_USES),
        migrations.RunSQL(BACKLOG, NO_BACKLOG),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
        migrations.RunSQL(KEEPER, migrations.RunSQL.noop),
    ]
