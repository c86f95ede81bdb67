"""Somebody's own job in a fresh copy of this checkout: its package, its program and its variable are where it runs.

README's own job is beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RUN
from tests.e2e.test_images import BASE, inspected
from tests.support.checkout import copy_of_the_checkout
from tests.support.compose_stack import ComposeStack, removed_at_the_end
from tests.support.documents import blocks, printed
from tests.support.journey import done, submit

SHOP = '''"""A job that brings what Esteira does not have."""

import os
import subprocess

import inflection

from esteira import Context, job

KEY = os.environ["SHOP_API_KEY"]  # wanted by whatever loads the job types


@job
def bring(ctx: Context) -> dict[str, str]:
    """Use a package, a program and a variable."""
    said = subprocess.run(["hello"], capture_output=True, text=True, check=True).stdout
    return {"package": inflection.pluralize("job"), "program": said.strip(), "variable": os.environ["SHOP_API_KEY"]}
'''
#: Layers between the image that ours are built on and the code: Debian packages, users, Python packages.
BELOW_THE_CODE = 3
ROLES = ("web", "worker", "beat", "flower")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with two modules, and lines in each of the four files."""
    code = copy_of_the_checkout(tmp_path_factory.mktemp("own") / "code")
    (greetings,) = blocks("README.md", "python")
    (code / "jobs" / "greetings.py").write_text(greetings.lines)
    (code / "jobs" / "shop.py").write_text(SHOP)
    for name, line in {"jobs/requirements.txt": "inflection", "jobs/apt.txt": "hello  # says so"}.items():
        with (code / name).open("a") as file:
            file.write(f"{line}\n")
    subprocess.run(
        ["sh", "-euc", printed("docs/your-own.md", "cp jobs.env.example jobs.env")], cwd=code, check=True
    )
    with (code / "jobs.env").open("a") as file:
        file.write("SHOP_WORDS=a=12 34\nLEASE_SECONDS=77\n")
    (code / ".env").write_text(printed("docs/your-own.md", "JOB_PACKAGES=", {"shop_jobs": "inflection"}))
    return code


@pytest.fixture(scope="module")
def own(code: Path) -> Iterator[ComposeStack]:
    """Its stack, from images with names of its own."""
    stack = ComposeStack(f"{RUN}-own", file=code / "compose.yaml", IMAGE_PREFIX=f"{RUN}-own/")
    del stack.settings["JOB_PACKAGES"]  # as .env says
    with removed_at_the_end(stack):
        stack.type(printed("README.md", "docker compose up --wait --build"), timeout=1200)
        yield stack


def image_of(role: str) -> str:
    return f"{RUN}-own/esteira-{role}:latest"


def test_a_job_finds_its_package_its_program_and_its_variable(own: ComposeStack) -> None:
    api = own.api()

    job = done(api, submit(api, "shop.bring"))

    assert job["result"] == {"package": "jobs", "program": "Hello, world!", "variable": "k-1234"}
    asked = ("JOB_PACKAGES", "SHOP_WORDS", "LEASE_SECONDS")
    assert own.execute("worker", "printenv", *asked).splitlines() == ["jobs,inflection", "a=12 34", "10.0"]
    assert "SHOP_API_KEY" not in own.execute("flower", "env")


def test_the_job_of_the_readme_runs(own: ComposeStack) -> None:
    manage = printed("README.md", "manage() { docker compose exec")

    said = own.type(manage + printed("README.md", "manage jobs submit greetings.greet"))

    assert "Hello Ana" in said and "succeeded" in said


def test_a_hint_of_the_command_line_can_be_typed_as_it_is(own: ComposeStack) -> None:
    said = own.tried("exec", "-T", "web", "manage", "jobs", "submit", "shop.bring")

    assert re.search(r"To see it: docker compose exec web manage jobs show \w+$", said.stderr, re.MULTILINE)


@pytest.mark.parametrize("role", ROLES)
def test_every_image_holds_them(own: ComposeStack, role: str) -> None:
    command = ["sh", "-c", 'hello && python -c "import inflection" && ls /var/lib/apt/lists']

    said = own.docker("run", "--rm", "--network", "none", image_of(role), *command)

    assert said == "Hello, world!\n"


def test_a_changed_job_installs_nothing_again(own: ComposeStack, code: Path) -> None:
    before = layers(own)
    (code / "jobs" / "shop.py").write_text(SHOP.replace("Use a package", "Take a package"))

    own.compose("build", "worker", timeout=600)

    after = layers(own)
    assert after != before
    below = len(inspected(BASE)["RootFS"]["Layers"]) + BELOW_THE_CODE
    assert after[:below] == before[:below], "packages were installed again"
    assert after[below] != before[below], "the code comes next"


def layers(stack: ComposeStack) -> list[str]:
    return stack.docker("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', image_of("worker")).split()


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pyproject.toml", '"tzdata>=2025.2",', '"tzdata>=2025.1",', "If the lockfile needs to be updated: run `make lock`"),
        ("jobs/requirements.txt", "inflection\n", "django>=99\n", "cannot be installed beside the versions of uv.lock"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_lock_is_refused(
    own: ComposeStack, code: Path, file: str, old: str, new: str, sentence: str
) -> None:
    before = (code / file).read_text()
    assert old in before
    (code / file).write_text(before.replace(old, new))
    base = [f"--build-arg=PYTHON_IMAGE={image}"] if (image := os.environ.get("PYTHON_IMAGE")) else []

    built = subprocess.run(
        ["docker", "build", "--progress=plain", "--target=build", "--file=services/Dockerfile", *base, "."],
        cwd=code, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    (code / file).write_text(before)

    assert built.returncode != 0
    assert re.search(rf"^#\d+ [\d.]+ .*{re.escape(sentence)}", built.stderr, re.MULTILINE)
