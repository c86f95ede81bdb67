"""The steps of `make run`: lock the folder, start servers, migrate, start parts, print the addresses, watch, stop.

A signal stops it at any point, always in the same way: the parts drain, then the servers stop, and no process is left.
A second signal shortens this. If this process is killed, the kernel ends the parts, and the next start removes
leftovers. An error that a person can correct is one sentence (EmbeddedError), with exit code 1.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from project.local import announce, parts, servers
from project.local.embedded import EmbeddedError
from project.local.embedded_launch import adopt_orphans
from project.local.embedded_server import end_processes
from project.local.home import Home
from project.local.options import Options, read, require_free
from project.local.output import Output
from project.local.supervise import Part, Supervised, end_of, ending, spawn
from project.local.watch import saved_files

SAY_WHAT_IS_MISSING_EVERY_SECONDS = 15.0
EVERY_LINE = ""  # every line contains this text, so it mutes all lines


def main() -> int:
    """Run the stack until a signal; return the exit code."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        asyncio.run(_run(read()))
    except EmbeddedError as error:
        print(f"esteira: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: Options) -> None:
    home = Home(options.data_dir)
    home.claim()
    adopt_orphans()
    stack = Stack(options, home)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=32))  # one thread waits for each process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup, SIGHUP stays ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stack.ask_to_stop)
    await stack.run()


class Stack:
    """All running parts, in the order of their start."""

    def __init__(self, options: Options, home: Home) -> None:
        self.options, self.home = options, home
        self.output = Output(on_closed=self.ask_to_stop)
        self._servers: list[Supervised] = []
        self._apps: list[Supervised] = []
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    def ask_to_stop(self) -> None:
        """Stop in an orderly way; at the second call, stop faster."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def run(self) -> None:
        """Start, and run until a stop is requested or an error occurs that only a person can correct."""
        work = asyncio.create_task(self._start_and_watch())
        asked = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failed = work.done()
            work.cancel()
            asked.cancel()
            await self._stop_all()
        if failed:
            work.result()

    async def _start_and_watch(self) -> None:
        began = time.monotonic()
        self._clear_and_check()
        self.output.say("Starting; this takes about ten seconds.")
        addresses, wanted = servers.choose(self.options, self.home)
        self.home.keep(addresses)
        self._servers = [self._supervised(part) for part in wanted]
        await self._all_answer(self._servers)
        env = parts.environment(self.options, addresses)
        saved = saved_files(self.options.job_packages)
        next_saved = asyncio.ensure_future(anext(saved))  # begin to watch before the files are loaded
        words = await self._prepare(env)
        self._apps = [self._supervised(part) for part in parts.app_parts(self.options, self.home, env)]
        await self._all_answer(self._apps)
        made_here = parts.OTHER_PASSWORD not in words
        password = addresses["DEV_PASSWORD"] if made_here else "the password that it already has"
        self.output.plain(announce.block(self.options, self.home, password, time.monotonic() - began))
        while True:
            await self._reload(await next_saved, env)
            next_saved = asyncio.ensure_future(anext(saved))

    def _clear_and_check(self) -> None:
        if left := self.home.clear_leftovers():
            self.output.say(
                f"An earlier start was killed; its leftover processes were ended: {', '.join(left)}"
            )
        require_free("PORT", self.options.port)
        require_free("FLOWER_PORT", self.options.flower_port)
        if self.options.metrics_port:
            require_free("METRICS_PORT", self.options.metrics_port)

    def _supervised(self, part: Part) -> Supervised:
        supervised = Supervised(part, self.home, self.output)
        supervised.start()
        return supervised

    async def _all_answer(self, wanted: list[Supervised]) -> None:
        """Wait until each part works, and print from time to time which parts do not work yet."""
        said = time.monotonic()
        missing = wanted
        while missing:
            if refusals := [each.refusal for each in missing if each.refusal]:
                raise refusals[0]
            answers = await asyncio.gather(*(asyncio.to_thread(each.part.answers) for each in missing))
            missing = [each for each, works in zip(missing, answers, strict=True) if not works]
            if missing and time.monotonic() - said > SAY_WHAT_IS_MISSING_EVERY_SECONDS:
                said = time.monotonic()
                self.output.say(f"Still waiting for {', '.join(each.part.name for each in missing)}")
            await asyncio.sleep(0.1 if missing else 0)

    async def _prepare(self, env: dict[str, str], muted: str | None = None) -> list[str]:
        """Migrate and make the user; return the output, or raise EmbeddedError with the reason."""
        process, reader = spawn("prepare", parts.prepare(env), self.output, muted)
        try:
            code = await end_of(process)
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            await reader.finish()
        if code != 0:
            raise EmbeddedError(f"Preparing the database and the job types {ending(code, reader.tail)}")
        return list(reader.tail)

    async def _reload(self, files: list[Path], env: dict[str, str]) -> None:
        """Reload the parts after files were saved, if the files can be loaded at all."""
        names = ", ".join(file.name for file in files)
        try:
            await self._prepare(env, muted=EVERY_LINE)
        except EmbeddedError as error:
            self.output.say(
                f"{names}: saved with a mistake, so the parts keep the version they have. {error}"
            )
            return
        self.output.say(f"{names}: saved; worker, beat and web reload")
        await asyncio.gather(*(app.reload() for app in self._apps if app.part.name != "flower"))

    async def _stop_all(self) -> None:
        """Stop the parts, then the servers that they need, then end all processes that are left."""
        if not self._servers:
            return
        if self._apps:
            self.output.say(
                f"Stopping: jobs have {self.options.drain_seconds:g} s. Press Ctrl-C again to stop faster."
            )
        await asyncio.gather(*(app.stop(self._hurry) for app in self._apps))
        never = asyncio.Event()
        await asyncio.gather(*(server.stop(never) for server in self._servers))
        end_processes(psutil.Process().children(recursive=True), signal.SIGKILL, patience=5)
        self.output.say("Stopped. The data is kept.")
