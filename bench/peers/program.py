"""The part of a peer's program that does not depend on its queue, for the peers in Python (see README.md)."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from abc import ABC, abstractmethod

import uvloop

from bench import work

PAUSE_S = (0.03, 0.07)


class Program(ABC):
    """One queue: `python -m bench.peers.NAME.program COMMAND ...`."""

    def __init__(self) -> None:
        self._begun = False

    @abstractmethod
    async def connect(self) -> None:
        """Connect to PostgreSQL at DATABASE_URL."""

    @abstractmethod
    async def setup(self) -> None:
        """Make the queue's tables in an empty database."""

    @abstractmethod
    async def add(self, kind: str, jobs: int) -> None:
        """Submit so many jobs in one call."""

    @abstractmethod
    async def add_probe(self, number: int) -> None:
        """Submit one job that tells when it began."""

    @abstractmethod
    async def work(self) -> None:
        """Run jobs until this process is killed."""

    def run(self) -> None:
        uvloop.run(self._command(*sys.argv[1:]))

    async def _command(self, command: str, *rest: str) -> None:
        await self.connect()
        match command, rest:
            case "setup", ():
                await self.setup()
                say(ready=True)
            case "enqueue", (kind, jobs, size):
                await self._enqueue(kind, int(jobs), int(size))
            case "submit", (probes,):
                await self._submit(int(probes))
            case "work", ():
                say(ready=True)
                if sys.stdin.readline():
                    await self.work()
            case _:
                sys.exit(f"unknown command: {command}")

    async def _enqueue(self, kind: str, jobs: int, size: int) -> None:
        began = time.monotonic()
        for done in range(0, jobs, size):
            await self.add(kind, min(size, jobs - done))
        say(jobs=jobs, seconds=time.monotonic() - began)

    async def _submit(self, probes: int) -> None:
        at = []
        for number in range(probes):
            await asyncio.sleep(random.uniform(*PAUSE_S))
            at.append(time.time())
            await self.add_probe(number)
        say(submitted=at)

    def noop(self) -> None:
        if not self._begun:
            self._begun = True
            say(first=time.time())

    def one_ms(self) -> None:
        self.noop()
        work.one_ms()

    def probe(self, number: int) -> None:
        say(probe=number, at=time.time())


def say(**figures: object) -> None:
    print(json.dumps(figures), flush=True)
