"""PGQueuer as a peer of the benchmark.

The driver (asyncpg), the event loop (uvloop) and asynchronous functions are those of PGQueuer's own benchmark,
tools/benchmark.py of its repository. Its guide to tuning (docs/guides/performance-tuning.md) asks for a larger batch
where jobs are short, here 100, and for `pgq autovac`; durability is the default. A job that ended is a row of its log.
"""

from __future__ import annotations

import os

import asyncpg
from pgqueuer import AsyncpgDriver, PgQueuer, Queries
from pgqueuer.models import Job

from bench.peers.program import Program

BATCH = 100


class PgQueuerProgram(Program):
    async def connect(self) -> None:
        self.queries = Queries(AsyncpgDriver(await asyncpg.connect(os.environ["DATABASE_URL"])))

    async def setup(self) -> None:
        await self.queries.install()
        await self.queries.optimize_autovacuum()

    async def add(self, kind: str, jobs: int) -> None:
        await self.queries.enqueue([kind] * jobs, [None] * jobs, [0] * jobs)

    async def add_probe(self, number: int) -> None:
        await self.queries.enqueue("probe", str(number).encode())

    async def work(self) -> None:
        queue = PgQueuer(self.queries.driver)

        @queue.entrypoint("noop")
        async def noop(job: Job) -> None:
            self.noop()

        @queue.entrypoint("one_ms")
        async def one_ms(job: Job) -> None:
            self.one_ms()

        @queue.entrypoint("probe")
        async def probe(job: Job) -> None:
            self.probe(int(job.payload or b"0"))

        await queue.run(batch_size=BATCH)


if __name__ == "__main__":
    PgQueuerProgram().run()
