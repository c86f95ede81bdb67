"""procrastinate as a peer of the benchmark.

Asynchronous tasks and the psycopg connector are those of its own benchmark (tests/benchmarks of its repository). Its
guide "Execute multiple jobs at the same time" (docs/howto) has 30 jobs at once. Jobs that ended are kept, which is the
default.
"""

from __future__ import annotations

import os

from procrastinate import App, PsycopgConnector

from bench.peers.program import Program

CONCURRENCY = 30


class ProcrastinateProgram(Program):
    def __init__(self) -> None:
        super().__init__()
        self.app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))

        @self.app.task(name="noop")
        async def noop() -> None:
            self.noop()

        @self.app.task(name="one_ms")
        async def one_ms() -> None:
            self.one_ms()

        @self.app.task(name="probe")
        async def probe(number: int) -> None:
            self.probe(number)

        self.tasks = {"noop": noop, "one_ms": one_ms, "probe": probe}

    async def connect(self) -> None:
        await self.app.open_async()

    async def setup(self) -> None:
        await self.app.schema_manager.apply_schema_async()

    async def add(self, kind: str, jobs: int) -> None:
        await self.tasks[kind].batch_defer_async(*({} for _ in range(jobs)))

    async def add_probe(self, number: int) -> None:
        await self.tasks["probe"].defer_async(number=number)

    async def work(self) -> None:
        await self.app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    ProcrastinateProgram().run()
