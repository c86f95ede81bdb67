"""Names of workers: who may take one, and whose jobs are rescued with it (T9)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from esteira import identity
from esteira.db import Core
from tests.support.jobs import look, running

pytestmark = pytest.mark.usefixtures("database")


def take(core: Core, name: str = "w@host") -> identity.Identity:
    return identity.take_name(core, name, queues=["default"], slots=2)


def gone() -> str:
    """The incarnation of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity.incarnation(child.pid)
    assert identity.lives(name)
    child.communicate(b"\n")
    assert not identity.lives(name)
    return name


def announced(core: Core, name: str, incarnation: str) -> None:
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES (%s, %s, 'host', 1, '[]', '[]', 2, 'up', clock_timestamp(), clock_timestamp())""",
        [name, incarnation],
    )


def test_a_first_worker_takes_its_name_and_announces_what_it_serves(core: Core) -> None:
    me = take(core)

    assert me.full == f"w@host/{identity.incarnation(os.getpid())}"
    assert core.fetch("SELECT state, slots, queues FROM esteira_worker") == [("up", 2, ["default"])]


def test_the_jobs_of_an_earlier_life_are_rescued_at_once(core: Core) -> None:
    earlier = gone()
    announced(core, "w@host", earlier)
    mine = running(core, worker=f"w@host/{earlier}")[0]
    other = running(core, worker=f"w@host-2/{earlier}")[0]

    take(core)

    assert look(core, mine.id).state == "queued"
    assert look(core, mine.id).suspicion == 1
    assert look(core, other.id).state == "running"


def test_while_the_namesake_lives_the_newcomer_takes_another_name_and_no_jobs(core: Core) -> None:
    living = identity.incarnation(os.getppid())
    announced(core, "w@host", living)
    theirs = running(core, worker=f"w@host/{living}")[0]

    me = take(core)

    assert me.name == "w@host-2"
    assert look(core, theirs.id).state == "running"
    assert identity.lives(core.fetch("SELECT incarnation FROM esteira_worker WHERE name = 'w@host'")[0][0])


def test_an_incarnation_of_another_boot_is_left_to_its_leases(core: Core) -> None:
    announced(core, "w@host", "0ther000-1-1")
    theirs = running(core, worker="w@host/0ther000-1-1")[0]

    me = take(core)

    assert me.name == "w@host"
    assert look(core, theirs.id).state == "running"


def test_a_process_number_that_was_given_to_another_process_is_not_the_earlier_one() -> None:
    boot, pid, started = identity.incarnation(os.getpid()).rsplit("-", 2)

    assert identity.lives(f"{boot}-{pid}-{started}")
    assert not identity.lives(f"{boot}-{pid}-{int(started) - 1}")


def test_without_proc_a_process_of_that_number_may_be_the_one() -> None:
    boot = identity.incarnation(os.getpid()).rsplit("-", 2)[0]

    assert identity.lives(f"{boot}-{os.getpid()}-?")
    assert not identity.lives(f"{boot}-4194305-?")


def test_a_worker_that_says_goodbye_is_not_counted_on(core: Core) -> None:
    me = take(core)

    identity.say_goodbye(me)

    assert core.fetch("SELECT state FROM esteira_worker") == [("gone",)]
