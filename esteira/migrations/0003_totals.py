"""Totals that outlive retention: whatever adds to a minute's row also adds to its total, old releases included."""

from django.db import migrations, models

TRIGGER = """
CREATE FUNCTION esteira_add_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO esteira_stattotal AS t (type, queue, state, n, sum_ms, buckets)
  VALUES (NEW.type, NEW.queue, NEW.state, NEW.n - coalesce(OLD.n, 0), NEW.sum_ms - coalesce(OLD.sum_ms, 0),
    (SELECT coalesce(jsonb_agg(a.v::bigint - coalesce(b.v::bigint, 0) ORDER BY a.i), '[]')
     FROM jsonb_array_elements_text(NEW.buckets) WITH ORDINALITY AS a(v, i)
     LEFT JOIN jsonb_array_elements_text(coalesce(OLD.buckets, '[]')) WITH ORDINALITY AS b(v, i) USING (i)))
  ON CONFLICT (type, queue, state) DO UPDATE SET n = t.n + excluded.n, sum_ms = t.sum_ms + excluded.sum_ms,
    buckets = (SELECT coalesce(jsonb_agg(coalesce(a.v::bigint, 0) + coalesce(b.v::bigint, 0) ORDER BY i), '[]')
               FROM jsonb_array_elements_text(t.buckets) WITH ORDINALITY AS a(v, i)
               FULL JOIN jsonb_array_elements_text(excluded.buckets) WITH ORDINALITY AS b(v, i) USING (i));
  RETURN NULL;
END $$;

CREATE TRIGGER esteira_stat_total AFTER INSERT OR UPDATE OF n, sum_ms, buckets ON esteira_stat
  FOR EACH ROW EXECUTE FUNCTION esteira_add_up();

INSERT INTO esteira_stattotal (type, queue, state, n, sum_ms, buckets)
SELECT type, queue, state, sum(n), sum(sum_ms), (
  SELECT coalesce(jsonb_agg(each.v ORDER BY each.i), '[]') FROM (
    SELECT i, sum(v::bigint) AS v FROM esteira_stat o, jsonb_array_elements_text(o.buckets) WITH ORDINALITY AS e(v, i)
    WHERE o.type = s.type AND o.queue = s.queue AND o.state = s.state GROUP BY i) AS each)
FROM esteira_stat s GROUP BY type, queue, state;
"""
UNDO = "DROP TRIGGER esteira_stat_total ON esteira_stat; DROP FUNCTION esteira_add_up();"


class Migration(migrations.Migration):
    dependencies = [("esteira", "0002_guards")]
    operations = [
        migrations.CreateModel(
            name="StatTotal",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("type", models.CharField(max_length=120)),
                ("queue", models.CharField(max_length=60)),
                ("state", models.CharField(max_length=10)),
                ("n", models.BigIntegerField(default=0)),
                ("sum_ms", models.FloatField(default=0)),
                ("buckets", models.JSONField(default=list)),
            ],
        ),
        migrations.AddConstraint(
            model_name="stattotal",
            constraint=models.UniqueConstraint(fields=("type", "queue", "state"), name="stat_total_once"),
        ),
        migrations.RunSQL(TRIGGER, UNDO),
    ]
