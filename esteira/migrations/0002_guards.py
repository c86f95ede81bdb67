"""What Django's models cannot say: the arrows of the state machine, as a trigger, and how the hot tables are stored.

The trigger's WHEN clause is evaluated without calling a function, so the happy path pays nothing for it. The only way
out of an end state is T13, which names itself by a transaction-local setting.
"""

from django.db import migrations

GUARD = """
CREATE FUNCTION esteira_refuse_arrow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'job %: % (attempt %) -> % (attempt %) is no legal transition',
    OLD.id, OLD.state, OLD.attempt, NEW.state, NEW.attempt USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER esteira_job_arrow BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (
  NEW.attempt < OLD.attempt
  OR (OLD.state = 'queued' AND NEW.state NOT IN ('queued', 'running', 'cancelled', 'expired', 'failed'))
  OR (OLD.state = 'running' AND NEW.state = 'expired')
  OR (OLD.state = 'running' AND NEW.state = 'running' AND NEW.attempt <> OLD.attempt)
  OR (OLD.state = 'queued' AND NEW.state = 'running' AND NEW.attempt = OLD.attempt)
  OR (OLD.state IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired') AND NEW.state <> OLD.state
      AND NOT (OLD.state <> 'succeeded' AND NEW.state = 'queued'
               AND coalesce(current_setting('esteira.transition', true), '') = 'T13'))
) EXECUTE FUNCTION esteira_refuse_arrow();

ALTER TABLE esteira_job SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE esteira_filechunk ALTER COLUMN data SET STORAGE EXTERNAL;
INSERT INTO esteira_keeper (id) VALUES (1) ON CONFLICT DO NOTHING;
"""
UNDO = "DROP TRIGGER esteira_job_arrow ON esteira_job; DROP FUNCTION esteira_refuse_arrow();"


class Migration(migrations.Migration):
    dependencies = [("esteira", "0001_first")]
    operations = [migrations.RunSQL(GUARD, UNDO)]
