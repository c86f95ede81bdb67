"""Names of workers: who may take one, and whose jobs are rescued with it (T9)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esteira.db import PrivateConnection
from esteira.keeper.publish import served
from esteira.keeper.retention import Retention
from esteira.record import rescue
from esteira.worker import identity
from tests.support.jobs import look, running

pytestmark = pytest.mark.usefixtures("database")


def take(core: PrivateConnection, name: str = "w@host") -> identity.Identity:
    return identity.take_name(core, name, queues=["default"], slots=2)


def gone() -> str:
    """The incarnation of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity.incarnation(child.pid)
    assert identity.lives(name)
    child.communicate(b"\n")
    assert not identity.lives(name)
    return name


def announced(core: PrivateConnection, name: str, incarnation: str) -> None:
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES (%s, %s, 'host', 1, '[]', '[]', 2, 'up', clock_timestamp(), clock_timestamp())""",
        [name, incarnation],
    )


def test_a_first_worker_takes_its_name_and_announces_what_it_serves(core: PrivateConnection) -> None:
    me = take(core)

    assert me.full == f"w@host/{identity.incarnation(os.getpid())}"
    assert core.fetch("SELECT state, slots, queues FROM esteira_worker") == [("up", 2, ["default"])]


def test_the_jobs_of_an_earlier_life_are_rescued_at_once(core: PrivateConnection) -> None:
    earlier = gone()
    announced(core, "w@host", earlier)
    mine = running(core, worker=f"w@host/{earlier}")[0]
    other = running(core, worker=f"w@host/{gone()}")[0]

    take(core)

    assert look(core, mine.id).state == "queued"
    assert look(core, mine.id).suspicion == 1
    assert look(core, other.id).state == "running"


def test_while_the_namesake_lives_the_newcomer_takes_another_name_and_no_jobs(
    core: PrivateConnection,
) -> None:
    living = identity.incarnation(os.getppid())
    announced(core, "w@host", living)
    theirs = running(core, worker=f"w@host/{living}")[0]

    me = take(core)

    assert me.name == "w@host-2"
    assert look(core, theirs.id).state == "running"
    assert identity.lives(core.fetch("SELECT incarnation FROM esteira_worker WHERE name = 'w@host'")[0][0])


#: Processes that nobody here can see: on another machine, in another container, announced by an older release.
ELSEWHERE = {
    "another boot": lambda: f"{here().split('.')[0]}.0ther000-1-1",
    "another pid namespace": lambda: f"1.{here().split('.')[1]}-1-1",
    "an older release": lambda: f"{here().split('.')[1]}-{os.getpid()}-1",
    "somebody else's words": lambda: "what.ever",
}


def here() -> str:
    """The boot and the pid namespace of this process."""
    return identity.incarnation(os.getpid()).rsplit("-", 2)[0]


def silent(core: PrivateConnection, name: str, seconds: float = 60) -> None:
    core.fetch(
        "UPDATE esteira_worker SET last_seen = last_seen - %s * interval '1 second' WHERE name = %s",
        [seconds, name],
    )


@pytest.mark.parametrize("where", ELSEWHERE)
def test_who_lives_elsewhere_keeps_its_name_and_its_jobs(
    core: PrivateConnection, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = ELSEWHERE[where]()
    announced(core, "w@host", theirs)
    job = running(core, worker=f"w@host/{theirs}")[0]

    me = take(core)

    assert me.name == "w@host-2"
    assert look(core, job.id).state == "running"
    assert "another worker named w@host" in caplog.text


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("how", ["silent", "gone"])
def test_who_left_elsewhere_loses_its_name_and_keeps_its_leases(
    core: PrivateConnection, where: str, how: str
) -> None:
    theirs = ELSEWHERE[where]()
    announced(core, "w@host", theirs)
    job = running(core, worker=f"w@host/{theirs}")[0]
    if how == "gone":
        core.fetch("UPDATE esteira_worker SET state = 'gone'")
    else:
        silent(core, "w@host")

    me = take(core)

    assert me.name == "w@host"
    assert look(core, job.id).state == "running"


def test_however_often_a_namesake_elsewhere_starts_nobody_is_suspected(core: PrivateConnection) -> None:
    theirs = ELSEWHERE["another pid namespace"]()
    announced(core, "w@host", theirs)
    job = running(core, worker=f"w@host/{theirs}")[0]

    for _ in range(7):
        take(core)

    assert (look(core, job.id).state, look(core, job.id).suspicion) == ("running", 0)


def test_a_worker_that_was_silent_for_a_day_is_known_again(core: PrivateConnection) -> None:
    me = take(core)
    silent(core, "w@host", 90_000)
    while Retention().step(core):
        pass
    assert not core.fetch("SELECT 1 FROM esteira_worker")

    identity.stay_known(core, me, queues=["default"], slots=2)

    assert core.fetch("SELECT name, incarnation, state, slots FROM esteira_worker") == [
        (me.name, me.incarnation, "up", 2)
    ]
    assert "default" in served(core)


def test_a_worker_whose_name_was_taken_while_it_was_silent_goes_on_under_another(
    core: PrivateConnection, caplog: pytest.LogCaptureFixture
) -> None:
    me = take(core)
    job = running(core, worker=me.full)[0]
    core.fetch("UPDATE esteira_worker SET incarnation = %s", [ELSEWHERE["another boot"]()])

    now = identity.stay_known(core, me, queues=["images"], slots=2)
    again = identity.stay_known(core, now, queues=["images"], slots=2)

    assert (now.name, now.incarnation, again) == ("w@host-2", me.incarnation, now)
    assert core.fetch("SELECT name, queues FROM esteira_worker ORDER BY name") == [
        ("w@host", ["default"]),
        ("w@host-2", ["images"]),
    ]
    assert look(core, job.id).state == "running"
    assert "the name w@host now belongs to another worker" in caplog.text
    assert rescue.drained(core, me=now.full) == {job.id: "queued"}


def test_two_machines_of_one_host_name_are_both_published(core: PrivateConnection) -> None:
    """One of them has been announced before the other starts, as clones of a virtual machine are."""
    announced(core, "w@host", ELSEWHERE["another boot"]())
    core.fetch("UPDATE esteira_worker SET queues = '[\"default\"]', types = '[\"t\"]'")

    me = identity.take_name(core, "w@host", queues=["images"], slots=2)
    identity.stay_known(core, me, queues=["images"], slots=2)

    assert {"default", "images"} <= set(served(core))


def test_a_goodbye_is_for_one_s_own_row_only(core: PrivateConnection) -> None:
    me = take(core)
    core.fetch("UPDATE esteira_worker SET incarnation = %s", [ELSEWHERE["another boot"]()])

    identity.say_goodbye(me)

    assert core.fetch("SELECT state FROM esteira_worker") == [("up",)]


def test_jobs_that_began_under_a_former_name_are_rescued_with_their_process(core: PrivateConnection) -> None:
    earlier = gone()
    announced(core, "w@host-2", earlier)
    announced(core, "w@host", ELSEWHERE["another boot"]())
    job = running(core, worker=f"w@host/{earlier}")[0]

    assert take(core).name == "w@host-2"

    assert look(core, job.id).state == "queued"


def test_a_process_of_somebody_whose_proc_is_hidden_may_be_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid the files of others are not there, though their processes are."""
    one = identity.incarnation(os.getppid())
    monkeypatch.setattr(identity, "_PROC", Path("/nonexistent"))

    assert identity.lives(one)


def test_a_process_number_that_was_given_to_another_process_is_not_the_earlier_one() -> None:
    boot, pid, started = identity.incarnation(os.getpid()).rsplit("-", 2)

    assert identity.lives(f"{boot}-{pid}-{started}")
    assert not identity.lives(f"{boot}-{pid}-{int(started) - 1}")


def test_without_proc_a_process_of_that_number_may_be_the_one() -> None:
    boot = identity.incarnation(os.getpid()).rsplit("-", 2)[0]

    assert identity.lives(f"{boot}-{os.getpid()}-?")
    assert not identity.lives(f"{boot}-4194305-?")


def test_a_worker_that_says_goodbye_is_not_counted_on(core: PrivateConnection) -> None:
    me = take(core)

    identity.say_goodbye(me)

    assert core.fetch("SELECT state FROM esteira_worker") == [("gone",)]
