"""docs/limits.md shows the bounds of the code."""

from __future__ import annotations

import re

import pytest

from esteira import files
from esteira.job_types import checking
from esteira.runner import held, outcome
from esteira.search import scan
from esteira.values import bounds
from esteira_web.read import find
from tests.repo.tree import ROOT

KIB, MIB = 1024, 1024**2
SAID = {
    "`delay`": bounds.DELAY.words(),
    "`expires_in`": bounds.EXPIRES_IN.words(),
    "`timeout`": bounds.TIMEOUT.words(),
    "`lease`": bounds.LEASE.words(),
    "`Retry(after=)`": bounds.RETRY_AFTER.words(),
    "`backoff`": bounds.BACKOFF.words(),
    "`every`": bounds.EVERY.words(),
    "`grace`": bounds.GRACE.words(),
    "life of a token": bounds.TOKEN_LIFE.words(),
    "any stored moment": f"from {bounds.FIRST_MOMENT.year} until before {bounds.END_OF_MOMENTS.year}",
    "`retries`": bounds.RETRIES.words(),
    "jobs in one HTTP request": bounds.BATCH.words(),
    "jobs on a page": bounds.PAGE.words(),
    "jobs in one list": bounds.TERMINAL_PAGE.words(),
    "jobs that one search looks at": f"{scan.MOST_ROWS:,}, which take a server some 25 ms from memory",
    "newest jobs among which": f"{find.AMONG:,}",
    "result files of a job": f"{bounds.FILES_OF_A_JOB:,}",
    "levels of nesting": f"{bounds.NESTED}",
    "`done` and `total`": f"from 0 to {bounds.MOST_PROGRESS:.0e}".replace("+", ""),
    "unique key": bounds.UNIQUE.words(),
    "name of a job type": bounds.TYPE_NAME.words(),
    "name of a queue": bounds.QUEUE_NAME.words(),
    "name of a schedule": bounds.SCHEDULE_NAME.words(),
    "cron expression": bounds.CRON.words(),
    "time zone": bounds.ZONE.words(),
    "who did it": bounds.BY.words(),
    "reason for a pause": bounds.REASON.words(),
    "idempotency key": bounds.IDEMPOTENCY_KEY.words(),
    "name of a file": bounds.FILE_NAME.words(),
    "name of a token": bounds.TOKEN_NAME.words(),
    "id of a Celery task": bounds.TASK_ID.words(),
    "message of a Celery task": f"{bounds.MESSAGE_BYTES // MIB} MiB",
    "text of progress": f"{bounds.PROGRESS_TEXT} characters",
    "parameters": f"{checking.MAX_PARAMS_BYTES // KIB} KiB",
    "result": f"{outcome.RESULT_MAX // KIB} KiB",
    "log of an attempt": f"{held.LOG_MAX // MIB} MiB",
    "file": f"{files.MAX_BYTES // MIB} MiB",
}


def rows() -> dict[str, str]:
    text = (ROOT / "docs/limits.md").read_text()
    return {
        what: said
        for what, said in re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)
        if what != "what"
    }


@pytest.mark.parametrize("what", sorted(SAID))
def test_the_page_says_each_bound(what: str) -> None:
    said = [
        bound for name, bound in rows().items() if name == what or name.startswith((f"{what} ", f"{what},"))
    ]

    assert said, f"docs/limits.md does not say the bounds of {what}"
    assert any(bound.split(";")[0] == SAID[what] for bound in said), (said, SAID[what])


def test_every_bound_of_the_code_is_on_the_page() -> None:
    held = [v for v in vars(bounds).values() if isinstance(v, bounds.Span | bounds.Count | bounds.Text)]
    page = " | ".join(rows().values())

    assert not [bound for bound in held if bound.words() not in page and bound.most not in (120, 200)]
