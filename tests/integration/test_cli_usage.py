"""How the command line marks shortened output, and how it is called."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from esteira.models import JobLog
from tests.integration.test_cli import _types, _wide, shell, submitted  # noqa: F401
from tests.support.jobs_command import jobs

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.parametrize("words", [["nonsense"], ["list", "--limit=x"]])
def test_a_usage_line_begins_as_the_command_does_where_it_is_read(words: list[str]) -> None:
    with shell("jobs", *words, MANAGE_COMMAND="docker compose exec web manage") as typed:
        out, err = typed.communicate(timeout=60)

    assert "usage: docker compose exec web manage jobs" in out + err
    assert "manage.py" not in out + err


def test_show_reads_the_end_of_a_long_log_and_says_so() -> None:
    job_id = submitted()
    JobLog.objects.bulk_create(
        JobLog(job_id=job_id, attempt=attempt, text=f"attempt {attempt}\n" + "x" * 50_000 + "\n")
        for attempt in range(1, 9)
    )

    with CaptureQueriesContext(connection) as queries:
        short = jobs("show", str(job_id)).out
    whole = jobs("show", str(job_id), "--logs").out

    assert "log, the last 3 lines (--logs shows all)" in short
    assert "attempt 8" in short
    assert "attempt 1\n" not in short
    assert "attempt 1\n" in whole
    assert any(
        "esteira_joblog" in q["sql"] and "ORDER BY" in q["sql"] and "DESC" in q["sql"] for q in queries
    )
