"""A worker's identity: a name that it keeps after a restart, and an incarnation that is new for each process.

A restarted worker keeps its name, so the jobs of its earlier incarnation can be rescued at once if that process has
certainly ended. If it may still run, the new worker takes another name: two workers with one host name are harmless, on
one machine, in two containers, or on two machines. A process judges only processes that it can see, which run in the
same boot of the machine and the same pid namespace. For all others it relies on their announcements, and their jobs
wait until their leases end.
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
    """The process that has, or had, a worker's name."""

    incarnation: str
    last_seen: datetime
    fresh: bool

    def is_gone(self, me: str) -> bool:
        """Return whether this was another process that has certainly ended."""
        return self.incarnation != me and visible(self.incarnation) and not lives(self.incarnation)

    def keeps_its_name(self, me: str) -> bool:
        """Return whether another process with this name may run; an invisible one is judged by its last heartbeat."""
        if self.incarnation == me:
            return False
        return lives(self.incarnation) if visible(self.incarnation) else self.fresh


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A worker's name, its current incarnation, and the host on which it runs."""

    name: str
    incarnation: str
    host: str
    wanted: str

    @property
    def full(self) -> str:
        """The value that a running job's row stores."""
        return f"{self.name}/{self.incarnation}"


def incarnation(pid: int) -> str:
    """Return a process's place, its id and its start time; this combination is never used twice.

    The place is the boot of the machine and the pid namespace, because process 1 of every container is another process.
    """
    return f"{_place()}-{pid}-{start_time(pid)}"


def visible(other: str) -> bool:
    """Return whether this process could see the process of an incarnation; an invisible one must not be judged."""
    place, pid, _ = other.rsplit("-", 2) if other.count("-") >= 2 else ("", "", "")
    return place == _place() and pid.isdigit()


def lives(other: str) -> bool:
    """Return whether the process of a visible incarnation may still run."""
    _, pid, started = other.rsplit("-", 2)
    now = start_time(int(pid))
    if "?" in {started, now}:  # without /proc, or that process's entry, any process with this id may be it
        return _exists(int(pid))
    return now == started


def start_time(pid: int) -> str:
    """Return a process's start in clock ticks since boot, "" for a zombie, or "?" if it cannot be read."""
    try:
        fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?"
    return "" if fields[0] in "ZX" else fields[19]


def take_name(db: Db, wanted: str, *, queues: list[str], slots: int) -> Identity:
    """Choose a name that no running worker has, announce it, and rescue the jobs of an earlier process of that name.

    Only the jobs of a process that has certainly ended are rescued. The jobs of an invisible one wait until their
    leases end.
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
        log.warning("another worker named %s is running; this one takes the name %s", wanted, identity.name)
    announce(db, identity, queues=queues, slots=slots)
    if earlier and earlier.is_gone(me):
        rescued = rescue.worker_restarted(db, incarnation=earlier.incarnation)
        if rescued:
            log.warning("rescued %s jobs of this worker's earlier process", len(rescued))
    return identity


def stay_known(db: Db, identity: Identity, *, queues: list[str], slots: int) -> Identity:
    """Announce a worker; take another name if another worker took its name while this one sent no heartbeat.

    Its running jobs stay its own: they are found by its incarnation, independently of the name they began under.
    """
    if announce(db, identity, queues=queues, slots=slots):
        return identity
    log.warning(
        "the name %s now belongs to another worker; this one sent no heartbeat for too long", identity.name
    )
    return take_name(db, identity.wanted, queues=queues, slots=slots)


def announce(db: Db, identity: Identity, *, queues: list[str], slots: int) -> bool:
    """Store which queues and job types this worker serves; return False if another worker has its name.

    If retention removed the row, because the machine slept for a day, it is created again.
    """
    releases.record_heartbeat(db)
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
                "types": json.dumps(registry.runnable()),
                "slots": slots,
            },
        )
    )


def say_goodbye(identity: Identity) -> None:
    """Mark this worker as gone for the keepers; if that fails, they see that its heartbeats have stopped."""
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
    """Store the name for this worker, unless its holder sent a heartbeat after it was read."""
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
    """Name the pid namespace and the boot within which process ids are comparable."""
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
        return f"{uuid.getnode():012x}"  # identifies the machine and not its boot


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
