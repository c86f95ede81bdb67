"""One small process beside a worker: when the worker dies, whatever its jobs had started ends too.

A worker that is killed takes its pool processes along (the kernel sees to that), but not the programs that jobs have
started in them. Each pool process leads a process group and tells the guardian so; the guardian waits for the worker's
end, or until it becomes another worker (SIGHUP), and then kills those groups. It runs in a session of its own and
ignores SIGTERM, so that a signal to the worker's whole group, or to all its processes, leaves it to its work. If it
dies itself, such programs run on.

It needs Linux 5.3 (process descriptors); elsewhere there is none. A program that makes a session of its own is no
part of a group any more, and runs on as well.
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

#: A pool process that dies before its worker is its worker's business, unless the worker's end is the reason.
FORGET_AFTER_S = 2.0
#: So long after nobody can tell it anything any more, it waits for the worker's end.
LAST_WAIT_S = 1.0

_PID = struct.Struct("i")
_writer: int | None = None


def start() -> None:
    """Start it, from the worker's parent process, before that has any thread."""
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
    """Tell the guardian that this process leads a group of the worker's."""
    if _writer is not None and os.getpgrp() == os.getpid():
        with suppress(OSError):  # there is no guardian any more
            os.write(_writer, _PID.pack(os.getpid()))


def _become_guardian(parent: int, reader: int, writer: int) -> None:
    """Fork once more, so that the worker has no child that it does not know."""
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
        """Wait for the worker's end, and end what is left of it."""
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
            # The worker is about to end, or has become another program under its old id, with a guardian of its own.
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
