"""One small process beside a worker: when the worker dies, the guardian kills the programs that its jobs have started.

If a worker is killed, the kernel ends its pool processes too, but not the programs that jobs have started in them. Each
pool process leads a process group and writes its process id to the guardian. The guardian waits until the worker ends
or becomes another worker (SIGHUP), and then kills those groups. It runs in a session of its own and ignores SIGTERM, so
a signal to the worker's whole group, or to all its processes, does not stop it. If the guardian itself dies, such
programs run on.

It needs Linux 5.3 (process descriptors); on other systems there is no guardian. A program that creates a session of its
own leaves the group, and runs on as well.
"""

from __future__ import annotations

import math
import os
import select
import signal
import struct
import time
from contextlib import suppress

from esteira.runner.pool_process import end_group

#: If a pool process dies before its worker, the worker handles that, unless the worker's end is the reason.
FORGET_AFTER_S = 2.0
#: After its pipe was closed, so that no process can write to it, the guardian waits this long for the worker's end.
LAST_WAIT_S = 1.0

_PID = struct.Struct("i")
_writer: int | None = None


def start() -> None:
    """Start the guardian, from the worker's parent process, before that process has any thread."""
    global _writer
    if not hasattr(os, "pidfd_open") or _writer is not None:
        return
    try:
        parent = os.pidfd_open(os.getpid())
    except OSError:
        return
    reader, _writer = os.pipe()
    child = os.fork()
    if not child:
        _become_guardian(parent, reader, _writer)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(parent)


def watch_me() -> None:
    """Register this process with the guardian as the leader of one of the worker's process groups."""
    if _writer is not None and os.getpgrp() == os.getpid():
        with suppress(OSError):  # the guardian has ended
            os.write(_writer, _PID.pack(os.getpid()))


def _become_guardian(parent: int, reader: int, writer: int) -> None:
    """Fork once more, so that the worker does not have a child that it did not create itself."""
    try:
        os.setsid()
        if not os.fork():
            os.close(writer)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            _Guardian(parent, reader).run()
    finally:
        os._exit(0)


class _Guardian:
    def __init__(self, parent: int, reader: int) -> None:
        self._parent, self._reader = parent, reader
        self._leaders: dict[int, int] = {}
        self._gone: dict[int, float] = {}
        self._until = math.inf
        self._poll = select.poll()
        for one in (parent, reader):
            self._poll.register(one, select.POLLIN)

    def run(self) -> None:
        """Wait for the worker's end, then kill the process groups that are left."""
        while self._parent not in (ready := self._wait()) and time.monotonic() < self._until:
            for one in ready:
                if one == self._reader:
                    self._listen()
                else:
                    self._leader_ended(one)
            now = time.monotonic()
            self._gone = {pid: since for pid, since in self._gone.items() if now - since < FORGET_AFTER_S}
        for pid in (*self._leaders.values(), *self._gone):
            end_group(pid)

    def _wait(self) -> list[int]:
        seconds = min(FORGET_AFTER_S if self._gone else math.inf, max(0.0, self._until - time.monotonic()))
        return [one for one, _ in self._poll.poll(None if seconds == math.inf else seconds * 1000)]

    def _listen(self) -> None:
        told = os.read(self._reader, 1024 * _PID.size)
        if not told:
            # The worker is about to end, or has become another program with its old process id and its own guardian.
            self._poll.unregister(self._reader)
            self._until = time.monotonic() + LAST_WAIT_S
        for (pid,) in _PID.iter_unpack(told):
            with suppress(OSError):  # it has ended already
                descriptor = os.pidfd_open(pid)
                self._leaders[descriptor] = pid
                self._poll.register(descriptor, select.POLLIN)

    def _leader_ended(self, descriptor: int) -> None:
        self._gone[self._leaders.pop(descriptor)] = time.monotonic()
        self._poll.unregister(descriptor)
        os.close(descriptor)
