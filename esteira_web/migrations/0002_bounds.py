"""A token's end lies where Python can read it; one beyond becomes the last moment that it can."""

from datetime import UTC, datetime

from django.db import migrations, models
from django.db.models import Q

MEND = """
UPDATE esteira_web_apitoken SET expires_at = CASE WHEN expires_at < '1970-01-01Z'::timestamptz THEN '1970-01-01Z'::timestamptz
  ELSE '2199-12-31Z'::timestamptz END
WHERE expires_at < '1970-01-01Z'::timestamptz OR expires_at >= '2200-01-01Z'::timestamptz
"""


class Migration(migrations.Migration):
    dependencies = [("esteira_web", "0001_tokens")]
    operations = [
        migrations.RunSQL(MEND, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=Q(expires_at__gte=datetime(1970, 1, 1, tzinfo=UTC))
                & Q(expires_at__lt=datetime(2200, 1, 1, tzinfo=UTC)),
                name="token_moments",
            ),
        ),
    ]
