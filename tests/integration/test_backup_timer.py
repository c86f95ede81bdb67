"""The timer of compose's profile `backup`, on a real PostgreSQL: when it dumps, and what a kill or a failure leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.backup_scripts import SCRIPTS, BackupScripts, backup_scripts_at
from tests.support.forks import ROOT
from tests.support.servers import SuiteServers
from tests.support.waiting import until


class Timer:
    """The container's first process, beside the script that it runs."""

    def __init__(self, nightly: BackupScripts, place: Path) -> None:
        self.nightly, self.place = nightly, place
        for script in (ROOT / "compose/nightly/timer", ROOT / "compose/nightly/healthy", SCRIPTS / "backup"):
            shutil.copy(script, place)
        self.process: subprocess.Popen[str] | None = None

    def start(self, **settings: str) -> subprocess.Popen[str]:
        given = {"TMPDIR": str(self.place), "BACKUP_AT": "03:15", **settings}
        self.process = self.nightly.popen("sh", str(self.place / "timer"), **given)
        return self.process

    def rests(self) -> bool:
        """Whether it has looked and found nothing to do, or has done it."""
        assert self.process
        try:
            return any(child.name() == "sleep" for child in psutil.Process(self.process.pid).children())
        except psutil.NoSuchProcess:  # a child ended between two looks
            return False

    def healthy(self) -> bool:
        asked = subprocess.run(
            ["sh", str(self.place / "healthy")], env={**os.environ, "TMPDIR": str(self.place)}, check=False
        )
        return asked.returncode == 0

    def kill(self) -> None:
        """Kill it and all that it has started, as the end of its container does."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def nightly(servers: SuiteServers, tmp_path: Path) -> Iterator[BackupScripts]:
    with backup_scripts_at(servers.postgres, tmp_path / "volume") as found:
        yield found


@pytest.fixture
def timer(nightly: BackupScripts, tmp_path: Path) -> Iterator[Timer]:
    (tmp_path / "scripts").mkdir()
    timer = Timer(nightly, tmp_path / "scripts")
    yield timer
    timer.kill()


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


def name(moment: datetime) -> str:
    return moment.strftime("esteira-%Y%m%dT%H%M%SZ.dump")


def clock(moment: datetime) -> str:
    return moment.strftime("%H:%M")


def test_the_first_dump_is_made_at_once_and_a_signal_ends_the_timer(timer: Timer) -> None:
    process = timer.start()
    until(timer.rests, "the timer rests")

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 143
    assert len(timer.nightly.dumps()) == 1
    assert timer.nightly.told("dump") == (True, False)


@pytest.mark.parametrize(
    ("newest", "at", "more"),
    [
        ({"minutes": 1}, [{"minutes": 5}], 0),
        ({"minutes": 5}, [{"minutes": 2}], 1),
        ({"days": 3}, [{"minutes": -5}], 1),
        ({"hours": 23}, [{"minutes": -5}], 0),
        ({"hours": 7}, [{"hours": 6}, {"hours": 18}], 1),
        ({"hours": 5}, [{"hours": 6}, {"hours": 18}], 0),
    ],
    ids=["made", "due", "missed for days", "not yet", "the later of two", "between two"],
)
def test_a_dump_is_made_when_none_is_newer_than_the_last_moment(
    timer: Timer, newest: dict[str, float], at: list[dict[str, float]], more: int
) -> None:
    (timer.nightly.folder / name(ago(**newest))).touch()

    timer.start(BACKUP_AT=",".join(clock(ago(**each)) for each in at))
    until(timer.rests, "the timer rests")

    assert len(timer.nightly.dumps()) == 1 + more


def test_a_timer_that_is_killed_half_way_leaves_no_dump_and_begins_anew(timer: Timer) -> None:
    with timer.nightly.connect() as other:
        other.execute("BEGIN; LOCK TABLE esteira_job")
        timer.start()
        until(lambda: any(path.suffix == ".part" for path in timer.nightly.files()), "the dump has begun")
        timer.kill()

    assert [path.suffix for path in timer.nightly.files()] == [".part"]

    timer.start()
    until(timer.rests, "the timer rests")

    assert [path.suffix for path in timer.nightly.files()] == [".dump"]
    assert timer.nightly.restore()[0] == 0


def test_a_failure_shows_until_the_next_success(timer: Timer) -> None:
    process = timer.start(PGPASSWORD="wrong")
    until(timer.rests, "the timer rests")
    assert not timer.healthy()
    assert timer.nightly.dumps() == []
    timer.kill()
    assert process.stdout and "the next try is in 60 s" in process.stdout.read()

    timer.start()
    until(timer.rests, "the timer rests")

    assert timer.healthy()


@pytest.mark.parametrize("at", ["3:15", "24:00", "03:60", "nightly", ","])
def test_what_is_no_time_of_day_is_refused(timer: Timer, at: str) -> None:
    process = timer.start(BACKUP_AT=at)

    said, _ = process.communicate(timeout=30)

    assert process.returncode != 0
    assert f"BACKUP_AT={at} is not a time of day: write 03:15" in said
    assert timer.nightly.dumps() == []


def test_a_server_of_somebody_else_is_not_backed_up_by_its_stand_in(timer: Timer) -> None:
    process = timer.start(ELSEWHERE="true")

    said, _ = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "DATABASE_URL is the address of a server outside this stack" in said
