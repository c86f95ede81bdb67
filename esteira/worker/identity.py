"""Who a worker is: a name that outlives it, and an incarnation that does not.

A restarted worker keeps its name, so the jobs of its earlier incarnation can be rescued at once, if that process is
gone for certain. If it may live, the newcomer takes another name: two workers of one host name are harmless, on one
machine, in two containers, or on two machines. A process judges only what it can see, that is, what runs under its own
boot and in its own pid namespace; of others it believes what they announced, and leaves their jobs to the leases.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from esteira import releases
from esteira.db import ConnectionLost, Db, briefly
from esteira.job_types.registry import registry
from esteira.liveness import SILENT_S
from esteira.record import rescue

log = logging.getLogger("esteira.worker")

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Whose name it is, or was."""

    incarnation: str
    last_seen: datetime
    fresh: bool

    def is_gone(self, me: str) -> bool:
        """Whether this was another process, and it has certainly ended."""
        return self.incarnation != me and visible(self.incarnation) and not lives(self.incarnation)

    def keeps_its_name(self, me: str) -> bool:
        """Whether another process may live under the name; of one that cannot be seen its own word counts."""
        if self.incarnation == me:
            return False
        return lives(self.incarnation) if visible(self.incarnation) else self.fresh


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A worker's name, this life of it, and where it runs."""

    name: str
    incarnation: str
    host: str
    wanted: str

    @property
    def full(self) -> str:
        """What stands in a running job's row."""
        return f"{self.name}/{self.incarnation}"


def incarnation(pid: int) -> str:
    """Return where a process runs, its id and its start time: together they are never used twice.

    Where: the pid namespace, because process 1 of every container is another one, and the boot of the machine.
    """
    return f"{_place()}-{pid}-{start_time(pid)}"


def visible(other: str) -> bool:
    """Whether the process of an incarnation, if it runs, can be seen from here; who cannot see it must not judge."""
    place, pid, _ = other.rsplit("-", 2) if other.count("-") >= 2 else ("", "", "")
    return place == _place() and pid.isdigit()


def lives(other: str) -> bool:
    """Whether the process of a visible incarnation may still run."""
    _, pid, started = other.rsplit("-", 2)
    now = start_time(int(pid))
    if "?" in {started, now}:  # no /proc here, or not of that process: any process of that number may be it
        return _exists(int(pid))
    return now == started


def start_time(pid: int) -> str:
    """Return a process's start in clock ticks since boot, "" of a zombie, or "?" if there is nothing to read."""
    try:
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?"
    return "" if fields[0] in "ZX" else fields[19]


def take_name(db: Db, wanted: str, *, queues: list[str], slots: int) -> Identity:
    """Choose a name that no living worker has, announce it, and rescue what an earlier life of it left.

    Rescued is only what a process held that is certainly gone. What nobody here can see is left to its leases.
    """
    me, number = incarnation(os.getpid()), 1
    while True:
        name = wanted if number == 1 else f"{wanted}-{number}"
        identity = Identity(name=name, incarnation=me, host=wanted.split("@", 1)[-1], wanted=wanted)
        earlier = _holder(db, name)
        if earlier and earlier.keeps_its_name(me):
            number += 1
        elif _claim_name(db, identity, earlier):
            break
    if number > 1:
        log.warning("another worker named %s is up; this one takes %s", wanted, identity.name)
    announce(db, identity, queues=queues, slots=slots)
    if earlier and earlier.is_gone(me):
        rescued = rescue.worker_restarted(db, incarnation=earlier.incarnation)
        if rescued:
            log.warning("rescued %s jobs of this worker's earlier life", len(rescued))
    return identity


def stay_known(db: Db, identity: Identity, *, queues: list[str], slots: int) -> Identity:
    """Announce a worker; under another name if somebody took its own while nothing was heard of it.

    Its running jobs stay its own: they are found by its incarnation, whatever name they began under.
    """
    if announce(db, identity, queues=queues, slots=slots):
        return identity
    log.warning("the name %s now belongs to another worker; this one was silent for too long", identity.name)
    return take_name(db, identity.wanted, queues=queues, slots=slots)


def announce(db: Db, identity: Identity, *, queues: list[str], slots: int) -> bool:
    """Tell the keepers which queues and job types this worker serves; False if its name is somebody else's.

    A row that retention took away, because the machine slept for a day, is made again.
    """
    releases.say_alive(db)
    return bool(
        db.fetch(
            """INSERT INTO esteira_worker AS w
                 (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
               VALUES (%(name)s, %(me)s, %(host)s, %(pid)s, %(queues)s::text::jsonb, %(types)s::text::jsonb, %(slots)s,
                 'up', clock_timestamp(), clock_timestamp())
               ON CONFLICT (name) DO UPDATE SET queues = excluded.queues, types = excluded.types,
                 slots = excluded.slots, state = 'up', last_seen = excluded.last_seen
               WHERE w.incarnation = excluded.incarnation RETURNING 1""",
            {
                **_who(identity),
                "queues": json.dumps(queues),
                "types": json.dumps(registry.names()),
                "slots": slots,
            },
        )
    )


def say_goodbye(identity: Identity) -> None:
    """Tell the keepers that this worker is gone; if that fails, its silence does."""
    with suppress(*ConnectionLost), briefly("worker bye") as db:
        db.fetch(
            "UPDATE esteira_worker SET state = 'gone' WHERE name = %s AND incarnation = %s",
            [identity.name, identity.incarnation],
        )


def _holder(db: Db, name: str) -> Holder | None:
    rows = db.fetch(
        """SELECT incarnation, last_seen,
             state = 'up' AND last_seen > clock_timestamp() - %s * interval '1 second'
           FROM esteira_worker WHERE name = %s""",
        [SILENT_S, name],
    )
    return Holder(incarnation=rows[0][0], last_seen=rows[0][1], fresh=rows[0][2]) if rows else None


def _claim_name(db: Db, identity: Identity, earlier: Holder | None) -> bool:
    """Write the name down, unless its holder said something since it was looked at."""
    rows = db.fetch(
        """INSERT INTO esteira_worker AS w
             (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES (%(name)s, %(me)s, %(host)s, %(pid)s, '[]', '[]', 0, 'up', clock_timestamp(), clock_timestamp())
           ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation, host = excluded.host,
             pid = excluded.pid, state = 'up', started_at = excluded.started_at, last_seen = excluded.last_seen
           WHERE w.incarnation = %(earlier)s AND w.last_seen = %(seen)s::timestamptz RETURNING 1""",
        {
            **_who(identity),
            "earlier": earlier.incarnation if earlier else "",
            "seen": earlier.last_seen if earlier else None,
        },
    )
    return bool(rows)


def _who(identity: Identity) -> dict[str, Any]:
    return {
        "name": identity.name,
        "me": identity.incarnation,
        "host": identity.host,
        "pid": os.getpid(),
    }


def _place() -> str:
    """Name the pid namespace and the boot within which process ids mean something."""
    return f"{_namespace()}.{_boot_id()}"


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        return "0"


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return f"{uuid.getnode():012x}"  # not a boot, but a machine


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
