"""What README and docs/http.md have people type with and without Docker; a subclass for each gives the shell.

`shell` runs lines in the reader's folder, behind those that tell a shell what `manage` is; it returns what they printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.documents import printed

Shell = Callable[[str], str]
SUBMITTED = {
    "email.send",
    "images.thumbnails",
    "reports.job_history",
    "demo.flaky",
    "demo.failing",
    "demo.slow",
}
A_FEW_SECONDS_LATER = """
for job in $THUMBNAILS $REPORT; do
  until api "$WEB_URL/api/v1/jobs/$job" | grep -q '"state": *"succeeded"'; do sleep 0.2; done
done
"""


class Readme:
    """Give it work, and the same over HTTP."""

    def test_jobs_are_submitted_one_at_a_time(self, shell: Shell) -> None:
        said = shell(printed("README.md", "manage jobs types"))

        assert "reports.job_history" in said, "the types"
        assert "Hello Ana" in said, "the greeting"
        assert "coffee-256.webp" in said, "the thumbnails"
        assert said.count("succeeded") >= 4, "the two that were waited for, alone and in the list"

    def test_the_same_jobs_are_submitted_over_http(self, shell: Shell, folder: Path) -> None:
        lines = [
            printed("docs/http.md", "TOKEN=$(manage jobs token"),
            printed("docs/http.md", 'submit \'{"type": "email.send"'),
            A_FEW_SECONDS_LATER,
            printed("docs/http.md", 'api "$WEB_URL/api/v1/jobs?limit=10"'),
        ]

        said = shell("\n".join(lines))

        answers: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line]
        *accepted, page, files, report = answers
        assert [one["type"] for one in accepted] == ["email.send", "demo.flaky", "demo.failing", "demo.slow"]
        assert {one["type"] for one in page["items"]} >= SUBMITTED
        assert {"coffee-256.webp"} < {one["name"] for one in files["items"]}
        assert (report["type"], len(report["result"]["files"])) == ("reports.job_history", 2)
        with Image.open(folder / ".esteira" / "coffee-256.webp") as picture:
            picture.load()
            assert (picture.format, max(picture.size)) == ("WEBP", 256)
