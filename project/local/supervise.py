"""Keep one part of the stack running, as a container runtime would.

A part that dies is started again after a pause that grows from 0.5 s to 5 s, and the reason is said. Its
process leads a session of its own; when it ends, whatever is left of its process group is killed, so that
nothing of an earlier life meddles with the next. Its pid file is right whenever it exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from project.local.embedded_launch import EmbeddedError, Launch
from project.local.home import Home
from project.local.output import Output, Reader

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
STEADY_SECONDS = 10.0

_ours: set[int] = set()  # processes that a thread waits for


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the stack: what to execute, how to ask whether it works, how to end it."""

    name: str
    launch: Callable[[], Launch]
    answers: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals = signal.SIGKILL
    reload_signal: signal.Signals | None = None  # None: it is reloaded by ending and starting it
    patience_seconds: float = 10.0
    muted: str | None = None  # lines that contain this are not shown


class Supervised:
    """A part that is kept running until it is stopped."""

    def __init__(self, part: Part, home: Home, output: Output) -> None:
        self.part = part
        self.refusal: EmbeddedError | None = None
        self._home, self._output = home, output
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted, self._has_lived = True, False
        self._expected_end = False
        self._nudge = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._life = asyncio.create_task(self._live())

    async def reload(self) -> None:
        """Let it finish what it does and start anew; a part that is down is started at once."""
        self._nudge.set()
        if self._process is None:
            return
        if self.part.reload_signal:
            self._send(self.part.reload_signal)
            return
        self._expected_end = True
        self._send(self.part.stop_signal)
        await self._end_by(self._process, asyncio.Event())

    async def stop(self, hurry: asyncio.Event) -> None:
        """End it and wait until it is gone; `hurry` cuts the patience short."""
        self._wanted = False
        self._nudge.set()
        if self._life is None:
            return
        if self._process is not None:
            self._send(self.part.stop_signal)
            await self._end_by(self._process, hurry)
        await self._life

    async def _live(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while self._wanted:
            born = time.monotonic()
            reason = await self._one_life()
            if self.refusal:
                return
            if time.monotonic() - born > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            if self._expected_end or not self._wanted:
                self._expected_end = False
                continue
            self._output.say(f"{self.part.name} {reason}; it starts again in {pause:g} s")
            self._nudge.clear()
            if await _is_set_within(self._nudge, pause):
                pause = FIRST_PAUSE_SECONDS
            else:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _one_life(self) -> str:
        """Run it once; return why it ended."""
        try:
            self._process, reader = spawn(self.part.name, self.part.launch(), self._output, self.part.muted)
        except EmbeddedError as error:
            self.refusal = None if self._has_lived else error  # what worked once may work again
            return f"cannot start: {error}"
        self._has_lived = True
        process = self._process
        self._home.note_pid(self.part.name, process.pid)
        code = await end_of(process)
        self._home.forget_pid(self.part.name)
        self._process = None
        _kill_group(process.pid)
        _bury_orphans()
        await reader.finish()
        return ending(code, reader.tail)

    async def _end_by(self, process: subprocess.Popen[bytes], hurry: asyncio.Event) -> None:
        """Wait for the end of one process, asking ever less politely."""
        await _until_gone_or(process, hurry, self.part.patience_seconds)
        for how in (self.part.hurry_signal, signal.SIGKILL):
            if process.poll() is None:
                if not hurry.is_set():
                    self._output.say(f"{self.part.name} did not end by itself; it gets {how.name}")
                process.send_signal(how)
                await _until_gone_or(process, asyncio.Event(), patience=5)

    def _send(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)


def spawn(
    name: str, launch: Launch, output: Output, muted: str | None = None
) -> tuple[subprocess.Popen[bytes], Reader]:
    """Execute it with its output going to the stream."""
    readable, writable = os.pipe()
    try:
        process = launch.popen(writable)
    except EmbeddedError:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    _ours.add(process.pid)
    return process, Reader(name, readable, output, muted)


async def end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end in a thread; return its exit code."""
    code = await asyncio.to_thread(process.wait)
    _ours.discard(process.pid)
    return code


def ending(code: int, tail: Iterable[str]) -> str:
    """Say in a few words why a process ended: the signal, or the code and what it said last."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    lines = list(tail)
    places = [match for line in lines if (match := re.search(r'File "(.+)", line (\d+)', line))]
    where = f" ({places[-1][1]}, line {places[-1][2]})" if places and code else ""
    return f"ended with code {code}" + (f": {lines[-1]}{where}" if lines and code else "")


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all gone; macOS answers EPERM if only zombies are left
        return


def _bury_orphans() -> None:
    """Reap the dead that ended parts left to us (see `adopt_orphans`)."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid not in _ours and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


async def _until_gone_or(process: subprocess.Popen[bytes], event: asyncio.Event, patience: float) -> None:
    deadline = time.monotonic() + patience
    while process.poll() is None and not event.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
