"""Keep one part of the stack running, like a container runtime.

A part that ends is started again after a pause that grows from 0.5 s to 5 s, and the reason is printed. Its process
leads a session of its own; when it ends, the rest of its process group is killed, so that no process of an earlier run
disturbs the next one. If its pid file exists, it is correct.
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
    """One process of the stack: its command, its health check, and the signals that end it."""

    name: str
    launch: Callable[[], Launch]
    answers: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals = signal.SIGKILL
    reload_signal: signal.Signals | None = None  # None: a reload ends the process and starts a new one
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
        """Let the process finish its work and start it again; if it does not run, start it at once."""
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
        """End the process and wait for its end; `hurry` shortens the wait."""
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
        """Run the process once; return why it ended."""
        try:
            self._process, reader = spawn(self.part.name, self.part.launch(), self._output, self.part.muted)
        except EmbeddedError as error:
            self.refusal = None if self._has_lived else error  # a part that has started once may start again
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
        """Wait for the end of one process, and send stronger signals if it does not end."""
        await _until_gone_or(process, hurry, self.part.patience_seconds)
        for how in (self.part.hurry_signal, signal.SIGKILL):
            if process.poll() is None:
                if not hurry.is_set():
                    self._output.say(f"{self.part.name} did not end in time; it gets {how.name}")
                process.send_signal(how)
                await _until_gone_or(process, asyncio.Event(), patience=5)

    def _send(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)


def spawn(
    name: str, launch: Launch, output: Output, muted: str | None = None
) -> tuple[subprocess.Popen[bytes], Reader]:
    """Execute the command, with its output in the stream."""
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
    """Wait for the end of the process in a thread; return its exit code."""
    code = await asyncio.to_thread(process.wait)
    _ours.discard(process.pid)
    return code


def ending(code: int, tail: Iterable[str]) -> str:
    """Describe briefly why a process ended: the signal, or the exit code and its last line."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    lines = list(tail)
    places = [match for line in lines if (match := re.search(r'File "(.+)", line (\d+)', line))]
    where = f" ({places[-1][1]}, line {places[-1][2]})" if places and code else ""
    return f"ended with code {code}" + (f": {lines[-1]}{where}" if lines and code else "")


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all have ended; macOS: EPERM if only zombies are left
        return


def _bury_orphans() -> None:
    """Reap the zombies that ended parts have left to this process (see `adopt_orphans`)."""
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
