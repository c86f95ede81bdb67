"""STACK=dev in a copy of this checkout: the code of the folder runs, and what is saved there runs soon after."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.browser import Browser
from tests.support.checkout import copy_of_the_checkout
from tests.support.compose_stack import ComposeStack
from tests.support.journey import done, submit
from tests.support.waiting import until

PASSWORD = "given-by-a-file"
GREETINGS = '''"""Written while the stack runs."""

from esteira import Context, job


@job
def greet(ctx: Context, name: str) -> dict[str, str]:
    """Say hello."""
    return {"text": f"Hello {name}"}
'''


def test_a_saved_file_is_a_job_type_that_runs(
    make_stack: Callable[..., ComposeStack], tmp_path: Path
) -> None:
    code = copy_of_the_checkout(tmp_path / "code", admin_password=PASSWORD)
    stack = make_stack("dev", file=code / "compose.yaml", STACK="dev", JOB_PACKAGES="jobs")

    stack.up()
    api = stack.api()

    done(api, submit(api, "email.send", to=["ana@example.com"], subject="To the catcher", text="Olá"))
    assert "Subject: To the catcher" in stack.execute("mail", "sh", "-c", "cat /mail/new/*")
    page = Browser(stack.web_url).sign_in("admin", PASSWORD)
    assert page.status == 200 and f'href="{stack.flower_url}"' in page.body.decode()

    (code / "jobs" / "greetings.py").write_text(GREETINGS)

    def known() -> bool:
        return api.request("/api/v1/job-types/greetings.greet").status == 200

    until(known, "web knows the new type", timeout=60, every=0.3)
    greeted = done(api, submit(api, "greetings.greet", name="Ana"))
    assert greeted["result"] == {"text": "Hello Ana"}

    subprocess.run(["bin/down"], cwd=code, env=stack.environment(STACK="prod"), check=True)
    assert {left.split()[0] for left in stack.leftovers()} == {"volume"}, "the mail catcher is of dev alone"
