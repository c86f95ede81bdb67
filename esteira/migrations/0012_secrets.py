"""Secret parameters go with the end of their job: what will never run again needs no secret.

A trigger does it, because it holds for every statement that ends a job, and for those of an older release beside ours.
Its WHEN clause is evaluated without calling a function, so jobs without secrets pay nothing for it. A failed or dead
job keeps its secrets, because an operator's retry needs them. Jobs of the release before name none, and keep theirs.
"""

from django.db import migrations, models

from esteira.online_migrations import AddColumn

TRIGGER = """
CREATE OR REPLACE FUNCTION esteira_forget_secrets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.params := NEW.params - string_to_array(NEW.secret_names, ',');
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER esteira_job_secrets BEFORE UPDATE ON esteira_job FOR EACH ROW WHEN (
  NEW.secret_names IS NOT NULL AND NEW.state IN ('succeeded', 'cancelled', 'expired') AND OLD.state <> NEW.state
  AND jsonb_typeof(NEW.params) = 'object'
) EXECUTE FUNCTION esteira_forget_secrets();
"""
UNDO = """
DROP TRIGGER IF EXISTS esteira_job_secrets ON esteira_job;
DROP FUNCTION IF EXISTS esteira_forget_secrets();
"""


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("esteira", "0011_submitter")]
    operations = [
        AddColumn(model_name="job", name="secret_names", field=models.TextField(null=True)),
        migrations.RunSQL(TRIGGER, UNDO),
    ]
