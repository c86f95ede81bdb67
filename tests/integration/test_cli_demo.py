"""`manage.py jobs demo` with a real worker, beat and mailbox: what it shows is really there."""

from __future__ import annotations

import json
import mailbox
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pypdf
import pytest
from PIL import Image

from esteira.models import Job, JobEvent
from project.local.embedded import free_port
from tests.support.forks import ROOT, environment
from tests.support.processes import Process
from tests.support.waiting import until

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.slow]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A worker, a beat and a mailbox around the suite's servers; hands out their environment."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "data").mkdir()
    port = free_port()
    env = environment(
        DATA_DIR=str(tmp_path / "data"),
        EMAIL_URL=f"smtp://127.0.0.1:{port}",
        CONCURRENCY="2",
        JOB_PACKAGES="jobs",
    )
    celery = ["celery", "-A", "project"]
    mail = Process(
        "mail", ["project.local.mailbox", str(port), str(tmp_path / "data" / "mail")], env, tmp_path / "logs"
    )
    worker = Process("worker", [*celery, "worker", "-l", "info"], env, tmp_path / "logs")
    beat = Process("beat", [*celery, "beat", "-l", "info"], env, tmp_path / "logs")
    for process in (mail, worker, beat):
        process.start()
    try:
        until(lambda: is_open(port), "the mailbox is up")
        until(lambda: worker.touched("worker") and beat.touched("beat"), "worker and beat are up", timeout=60)
        yield env
    finally:
        for process in (beat, worker, mail):
            process.stop()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def demo(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "jobs", "demo", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_ends_as_it_says(stack: dict[str, str]) -> None:
    said = demo(stack, "--json")

    assert said.returncode == 0, said.stdout + said.stderr
    scenes: dict[str, dict[str, Any]] = {
        one["type"]: one for one in map(json.loads, said.stdout.splitlines())
    }
    assert {name: one["state"] for name, one in scenes.items()} == {
        "email.send": "succeeded",
        "images.thumbnails": "succeeded",
        "demo.flaky": "succeeded",
        "demo.failing": "failed",
        "demo.slow": "cancelled",
        "reports.job_history": "succeeded",
    }
    assert all(one["as_meant"] for one in scenes.values())

    [mail] = mailbox.Maildir(Path(stack["DATA_DIR"]) / "mail")
    assert scenes["email.send"]["id"] in mail["Message-ID"]
    assert [part.get_filename() for part in mail.walk() if part.get_filename()] == ["coffee.jpg"]
    assert Path(scenes["email.send"]["mail"]).is_file()

    pictures = [Path(name) for name in scenes["images.thumbnails"]["files"]]
    assert len(pictures) == 3
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert str(max(picture.size)) in path.name

    pdf, xlsx = (Path(name) for name in scenes["reports.job_history"]["files"])
    assert len(pypdf.PdfReader(pdf).pages) >= 1
    assert "Jobs" in openpyxl.load_workbook(xlsx).sheetnames

    flaky = Job.objects.get(pk=scenes["demo.flaky"]["id"])
    assert (flaky.failures, JobEvent.objects.filter(job=flaky, kind="retry_scheduled").count()) == (2, 2)
    assert "The account 4711 is closed" in scenes["demo.failing"]["details"][0]
    assert Job.objects.get(pk=scenes["demo.slow"]["id"]).started_at


def test_without_its_job_types_the_demo_says_what_to_do() -> None:
    said = demo(environment(JOB_PACKAGES="tests.support.chaos_jobs"))

    assert said.returncode == 1
    assert "add the package `jobs` to JOB_PACKAGES" in said.stderr
    assert not Job.objects.exists()
