"""Who a worker is: a name that outlives it, and an incarnation that does not.

A restarted container keeps its host's name, so the jobs of its earlier incarnation can be rescued at once, if that
process is gone for certain. If it lives, the newcomer takes another name: two workers on one host are harmless.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from esteira import releases
from esteira.db import Core, Db, Gone
from esteira.record import rescue
from esteira.registry import registry

log = logging.getLogger("esteira.worker")

#: A worker's parent forks all its life, so it holds no connection: it opens one, for at most a second.
PARENT_TIMEOUT_S = 1.0
ANNOUNCE_S = 5.0
#: A worker that was silent this long is not counted on.
SILENT_S = 3 * ANNOUNCE_S


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A worker's name, this life of it, and where it runs."""

    name: str
    incarnation: str
    host: str

    @property
    def full(self) -> str:
        """What stands in a running job's row."""
        return f"{self.name}/{self.incarnation}"


@contextmanager
def briefly(purpose: str) -> Iterator[Core]:
    """Open a connection for a few statements, and close it."""
    core = Core(purpose, timeout_s=PARENT_TIMEOUT_S)
    try:
        yield core
    finally:
        core.close()


def incarnation(pid: int) -> str:
    """Return boot id, process id and start time of a process: together they are never used twice."""
    return f"{_boot_id()}-{pid}-{_start_time(pid)}"


def lives(other: str) -> bool:
    """Whether the process of an incarnation may still run; one of another boot of this name is not ours to judge."""
    boot, pid, started = other.rsplit("-", 2)
    if boot != _boot_id():
        return False
    if started == "?":  # no /proc on this system: any process of that number may be it
        return _exists(int(pid))
    return _start_time(int(pid)) == started


def take_name(db: Db, wanted: str, *, queues: list[str], slots: int) -> Identity:
    """Choose a name that no living worker of this machine has, announce it, and rescue what an earlier life left."""
    host = wanted.split("@", 1)[-1]
    me = incarnation(os.getpid())
    number = 1
    while True:
        identity = Identity(name=wanted if number == 1 else f"{wanted}-{number}", incarnation=me, host=host)
        earlier = _incarnation_of(db, identity.name)
        if (earlier is None or earlier == me or not lives(earlier)) and _claim_name(db, identity, earlier):
            break
        if earlier is not None and lives(earlier):
            log.warning(
                "another worker named %s runs on this machine; this one takes %s-%s",
                wanted,
                wanted,
                number + 1,
            )
            number += 1
    announce(db, identity, queues=queues, slots=slots)
    if earlier is not None and earlier != me and earlier.startswith(_boot_id()):
        rescued = rescue.worker_restarted(db, name=identity.name, me=identity.full)
        if rescued:
            log.warning("rescued %s jobs of this worker's earlier life", len(rescued))
    return identity


def announce(db: Db, identity: Identity, *, queues: list[str], slots: int, state: str = "up") -> None:
    """Tell the keepers which queues and job types this worker serves."""
    db.fetch(
        """UPDATE esteira_worker SET queues = %s::text::jsonb, types = %s::text::jsonb, slots = %s, state = %s,
             last_seen = clock_timestamp()
           WHERE name = %s AND incarnation = %s""",
        [_json(queues), _json(registry.names()), slots, state, identity.name, identity.incarnation],
    )
    releases.say_alive(db)


def say_goodbye(identity: Identity) -> None:
    """Tell the keepers that this worker is gone; if that fails, its silence does."""
    with suppress(*Gone), briefly("worker bye") as db:
        db.fetch(
            "UPDATE esteira_worker SET state = 'gone' WHERE name = %s AND incarnation = %s",
            [identity.name, identity.incarnation],
        )


def touch(name: str, sign: str = "alive") -> None:
    """Show that a loop turns (alive) or does its work (ready): checks look at the age of these files in RUN_DIR."""
    file = Path(settings.RUN_DIR) / f"{name}.{sign}"
    try:
        file.touch()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def _incarnation_of(db: Db, name: str) -> str | None:
    rows = db.fetch("SELECT incarnation FROM esteira_worker WHERE name = %s", [name])
    return rows[0][0] if rows else None


def _claim_name(db: Db, identity: Identity, earlier: str | None) -> bool:
    """Write the name down, unless somebody else did since `earlier` was read."""
    rows = db.fetch(
        """INSERT INTO esteira_worker AS w
             (name, incarnation, host, pid, queues, types, slots, state, started_at, last_seen)
           VALUES (%(name)s, %(me)s, %(host)s, %(pid)s, '[]', '[]', 0, 'up', clock_timestamp(), clock_timestamp())
           ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation, host = excluded.host,
             pid = excluded.pid, state = 'up', started_at = excluded.started_at, last_seen = excluded.last_seen
           WHERE w.incarnation = %(earlier)s RETURNING 1""",
        {
            "name": identity.name,
            "me": identity.incarnation,
            "host": identity.host,
            "pid": os.getpid(),
            "earlier": earlier or "",
        },
    )
    return bool(rows)


def _json(names: list[str]) -> str:
    return json.dumps(names)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "unknown"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str:
    """Return a process's start in clock ticks since boot, or "?" if there is no such process (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?"
    return "?" if fields[0] in "ZX" else fields[19]
