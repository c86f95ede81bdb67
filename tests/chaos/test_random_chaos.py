"""Everything at once, in an order that a seed decides, while jobs are submitted all the time.

One minute in the suite; `make chaos MINUTES=120 SEED=7` for as long as wanted. The seed and every event are
printed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import psycopg
import pytest

from tests.support.database_clock import movable
from tests.support.database_faults import frozen, read_only, snapshot_held
from tests.support.invariants import check
from tests.support.load import outage
from tests.support.process_stack import ProcessStack
from tests.support.processes import Process
from tests.support.waiting import Stopwatch

SECONDS = float(os.environ["MINUTES"]) * 60 if "MINUTES" in os.environ else 60.0
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
#: Between two events, and from a death to the restart: as fast as a container runtime, and slower.
PAUSE_S, RESTART_S = (0.5, 2.5), (0.2, 2.0)
#: About half of what two workers can do here.
PER_SECOND = 25.0


@pytest.mark.random_chaos
def test_random_chaos(make_stack: Callable[..., ProcessStack]) -> None:
    print(f"\nrandom chaos for {SECONDS:.0f} s, SEED={SEED}")
    stack = make_stack(LEASE_SECONDS="3", DRAIN_SECONDS="4")
    with movable(stack.db.url) as move:
        stack.db.close()  # its next connection lives by that clock
        chaos = Chaos(stack, random.Random(SEED), move)
        chaos.start()
        try:
            chaos.rage(SECONDS)
            chaos.calm()
            stack.wait_ended(timeout=90)
            check(stack.db, chaos.acknowledged())
        except AssertionError as error:
            pytest.fail(f"SEED={SEED}, logs in {stack.logs}\n{error}\n" + "\n".join(chaos.told[-30:]))
        finally:
            chaos.enough.set()
            chaos.let_go_of_the_snapshot()
        chaos.report()


class Chaos:
    """Two workers, two beats and web; somebody who submits, and somebody who breaks things."""

    def __init__(self, stack: ProcessStack, chance: random.Random, move: Callable[[float], None]) -> None:
        self.stack, self.chance, self.enough = stack, chance, threading.Event()
        self.move, self.snapshot = move, ExitStack()
        self.watch = Stopwatch()
        self.told: list[str] = []
        self.restarts: list[tuple[float, Process]] = []
        self.thaws: list[tuple[float, Callable[[], None]]] = []
        self.clients: list[Future[None]] = []
        self.pool = ThreadPoolExecutor(2)

    def start(self) -> None:
        stack = self.stack
        self.workers = [stack.worker("w1"), stack.worker("w2")]
        self.beats = [stack.beat("beat1"), stack.beat("beat2")]
        self.web = stack.web()
        self.api = stack.api()
        stack.submitter.start()
        self.clients = [self.pool.submit(self._submit_over_http), self.pool.submit(self._submit_from_python)]

    def rage(self, seconds: float) -> None:
        """Do something terrible every second or so, and let the runtime restart what died."""
        self.watch, due = Stopwatch(), 0.0
        while self.watch.seconds < seconds:
            self._heal(self.watch.seconds)
            if self.watch.seconds >= due:
                event = self.chance.choice(self._events())
                self.told.append(
                    f"{self.watch.seconds:7.1f}  {event.__name__.removeprefix('_').replace('_', ' ')}"
                )
                print(self.told[-1])
                event()
                due = self.watch.seconds + self.chance.uniform(*PAUSE_S)
            outage(0.05)

    def calm(self) -> None:
        """Stop breaking and submitting; bring back whatever is down."""
        self.enough.set()
        for _, process in self.restarts:
            self.stack.until(lambda: not process.alive(), f"{process.name} has left")  # noqa: B023
        self._heal(float("inf"))
        for client in self.clients:
            client.result(timeout=60)
        for process in (*self.workers, *self.beats, self.web):
            if process.alive() and process.stopped:
                process.signal_all(signal.SIGCONT)
            if not process.alive():
                self.stack.again(process)

    def acknowledged(self) -> list[str]:
        return [*self.api.accepted.values(), *self.stack.submitter.acknowledged]

    def report(self) -> None:
        refused = sum(w.log.read_text(errors="replace").count("refused: attempt") for w in self.workers)
        p50, p99, worst, again = self.stack.db.fetch(
            """SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s), percentile_cont(0.99) WITHIN GROUP (ORDER BY s),
                 max(s), count(*) FILTER (WHERE attempt > 1)
               FROM (SELECT extract(epoch FROM finished_at - greatest(run_at, created_at))::float AS s, attempt
                     FROM esteira_job) x"""
        )[0]
        print(
            f"{len(self.acknowledged())} jobs accepted and each done once through {len(self.told)} events, SEED={SEED};"
            f" {again} ran again, {refused} late results refused;"
            f" from due to done p50 {p50:.2f} s, p99 {p99:.2f} s, worst {worst:.2f} s"
        )

    def _events(self) -> list[Callable[[], None]]:
        return [
            self._kill_a_worker,
            self._kill_a_worker,
            self._kill_a_main_process,
            self._kill_a_pool_process,
            self._kill_a_pool_process,
            self._stop_a_worker,
            self._freeze_a_worker,
            self._kill_a_beat,
            self._freeze_a_beat,
            self._kill_web,
            self._kill_redis,
            self._wipe_redis,
            self._freeze_redis,
            self._restart_postgres,
            self._cut_connections,
            self._stop_all_processes_of_a_worker,
            self._take_no_writes,
            self._freeze_postgres,
            self._step_the_clock,
            self._take_a_snapshot,
        ]

    def _one(self, processes: list[Process]) -> Process | None:
        able = [one for one in processes if one.alive() and not one.stopped]
        return self.chance.choice(able) if able else None

    def _kill_a_worker(self) -> None:
        self._end(self._one(self.workers), Process.kill)

    def _kill_a_main_process(self) -> None:
        self._end(self._one(self.workers), lambda process: process.signal(signal.SIGKILL))

    def _kill_a_pool_process(self) -> None:
        process = self._one(self.workers)
        if process and (children := process.children()):
            with suppress(psutil.NoSuchProcess):
                self.chance.choice(children).kill()

    def _stop_a_worker(self) -> None:
        self._end(self._one(self.workers), lambda process: process.signal(signal.SIGTERM))

    def _freeze_a_worker(self) -> None:
        self._freeze(self._one(self.workers), self.stack.lease_s * self.chance.uniform(0.3, 2.5))

    def _kill_a_beat(self) -> None:
        self._end(self._one(self.beats), Process.kill)

    def _freeze_a_beat(self) -> None:
        self._freeze(self._one(self.beats), self.chance.uniform(1, 8))

    def _kill_web(self) -> None:
        self._end(self._one([self.web]), Process.kill)

    def _kill_redis(self) -> None:
        self.stack.valkey.kill()
        outage(self.chance.choice([0, 0, 1, 3]))
        self.stack.valkey.start()

    def _wipe_redis(self) -> None:
        self.stack.redis.flushall()

    def _freeze_redis(self) -> None:
        os.kill(self.stack.valkey.pid, signal.SIGSTOP)
        outage(self.chance.uniform(0.5, 4))
        os.kill(self.stack.valkey.pid, signal.SIGCONT)

    def _restart_postgres(self) -> None:
        self.stack.postgres.stop("immediate")
        outage(self.chance.choice([0, 0, 1, 4]))
        self.stack.postgres.start()

    def _cut_connections(self) -> None:
        self.stack.db.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"""
        )

    def _stop_all_processes_of_a_worker(self) -> None:
        self._end(self._one(self.workers), lambda process: process.signal_all(signal.SIGTERM))

    def _take_no_writes(self) -> None:
        with read_only(self.stack.db):
            outage(self.chance.uniform(1, 12))

    def _freeze_postgres(self) -> None:
        with frozen(self.stack.postgres.pid):
            outage(self.chance.uniform(0.5, 8))

    def _step_the_clock(self) -> None:
        self.move(30)

    def _take_a_snapshot(self) -> None:
        """Hold one until the next is taken, or PostgreSQL restarts."""
        self.let_go_of_the_snapshot()
        self.snapshot.enter_context(snapshot_held(self.stack.postgres.url))

    def let_go_of_the_snapshot(self) -> None:
        with suppress(psycopg.OperationalError):  # a restart of the server has ended it
            self.snapshot.close()

    def _end(self, process: Process | None, how: Callable[[Process], None]) -> None:
        if process:
            how(process)
            moment = self.watch.seconds + self.chance.uniform(*RESTART_S)
            if process not in [one for _, one in self.restarts]:  # one that drains may be killed on top
                self.restarts.append((moment, process))

    def _freeze(self, process: Process | None, seconds: float) -> None:
        if process:
            process.signal_all(signal.SIGSTOP)
            self.thaws.append((self.watch.seconds + seconds, lambda: process.signal_all(signal.SIGCONT)))

    def _heal(self, now: float) -> None:
        """Thaw what was frozen long enough; start again what has ended."""
        for moment, thaw in [one for one in self.thaws if one[0] <= now]:
            thaw()
            self.thaws.remove((moment, thaw))
        for moment, process in [one for one in self.restarts if one[0] <= now and not one[1].alive()]:
            process.kill()
            process.start()
            self.restarts.remove((moment, process))

    def _submit_over_http(self) -> None:
        chance, n = random.Random(SEED + 1), 0
        while not self.enough.wait(chance.expovariate(PER_SECOND / 2)):
            name, params = an_order(chance)
            self.api.submit(str(n := n + 1), name, params)

    def _submit_from_python(self) -> None:
        chance = random.Random(SEED + 2)
        while not self.enough.wait(chance.expovariate(PER_SECOND / 8)):
            name, params = an_order(chance)
            self.stack.submitter.submit(name, [params] * 4, delay=chance.choice([0, 0, 0, 2]))


def an_order(chance: random.Random) -> tuple[str, dict[str, object]]:
    """Choose a type and its parameters."""
    orders: list[tuple[str, dict[str, object]]] = [
        ("effects.work", {"seconds": 0.05}),
        ("effects.work", {"seconds": 0.05}),
        ("effects.work", {"seconds": 0.5}),
        ("effects.transfer", {"seconds": 0.05}),
        ("effects.deaf", {"seconds": 0.3}),
        ("effects.flaky", {"times": 1}),
        ("effects.hooked", {"seconds": 0.05}),
        ("effects.forks", {"seconds": 0.05}),
        ("plain.nap", {"seconds": 0.05}),
        ("plain.nothing", {}),
        ("plain.nothing", {}),
    ]
    return chance.choice(orders)
