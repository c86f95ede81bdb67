"""Containers are killed, paused, wiped and cut off in an order that a seed decides, while jobs are submitted.

Two minutes in the whole table; MINUTES=120 SEED=7 for as long as wanted. The seed and every event are printed.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.support.compose_stack import PARTS
from tests.support.compose_under_load import ComposeStackUnderLoad, kill
from tests.support.invariants import check
from tests.support.load import outage
from tests.support.waiting import Stopwatch

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("MINUTES", "2")) * 60
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
#: Between two events; Docker waits longer and longer before it restarts what dies again and again.
PAUSE_S = (1.0, 4.0)
#: About half of what two workers can do here.
PER_SECOND = 10.0
ORDERS: list[tuple[str, dict[str, object]]] = [
    ("effects.work", {"seconds": 0.05}),
    ("effects.work", {"seconds": 0.5}),
    ("effects.transfer", {"seconds": 0.05}),
    ("effects.deaf", {"seconds": 0.3}),
    ("effects.flaky", {"times": 1}),
    ("plain.nap", {"seconds": 0.05}),
    ("plain.nothing", {}),
]


def test_random_breaks(stack: ComposeStackUnderLoad) -> None:
    print(f"\nrandom breaks for {SECONDS:.0f} s, SEED={SEED}")
    breaks = Breaks(stack, random.Random(SEED))
    try:
        breaks.rage(SECONDS)
        breaks.calm()
        stack.wait_ended(timeout=180)
        check(stack.db, breaks.acknowledged())
    except AssertionError as error:
        pytest.fail(f"SEED={SEED}\n{error}\n" + "\n".join(breaks.told[-30:]))
    finally:
        breaks.enough.set()
        breaks.heal(float("inf"))
    breaks.report()


class Breaks:
    """Somebody who submits over HTTP, somebody who submits from Python, and somebody who breaks things."""

    def __init__(self, stack: ComposeStackUnderLoad, chance: random.Random) -> None:
        self.stack, self.chance, self.enough = stack, chance, threading.Event()
        self.containers = {service: stack.ids(service) for service in PARTS}
        self.watch = Stopwatch()
        self.told: list[str] = []
        self.healing: list[tuple[float, str, ExitStack]] = []
        self.api = stack.api()
        self.from_python = stack.submit("plain.nothing", 1)
        self.pool = ThreadPoolExecutor(2)
        self.clients: list[Future[None]] = [
            self.pool.submit(self._submit_over_http),
            self.pool.submit(self._submit_from_python),
        ]

    def rage(self, seconds: float) -> None:
        """Do something terrible every few seconds; Docker restarts what died."""
        self.watch, due = Stopwatch(), 0.0
        while self.watch.seconds < seconds:
            self.heal(self.watch.seconds)
            if self.watch.seconds >= due:
                event = self.chance.choice(self._events())
                said = f"{self.watch.seconds:7.1f}  {event.__name__.removeprefix('_').replace('_', ' ')}"
                self.told.append(said)
                print(said, flush=True)
                event()
                due = self.watch.seconds + self.chance.uniform(*PAUSE_S)
            outage(0.05)

    def heal(self, now: float) -> None:
        """End the pauses and cuts that have lasted long enough."""
        for one in [one for one in self.healing if one[0] <= now]:
            self.healing.remove(one)
            one[2].close()

    def calm(self) -> None:
        """Stop breaking and submitting; wait until every part serves."""
        self.heal(float("inf"))
        self.enough.set()
        for service in PARTS:
            self.stack.wait_back(service, timeout=120)
        for client in self.clients:
            client.result(timeout=60)

    def acknowledged(self) -> list[str]:
        return [*self.from_python, *self.api.accepted.values()]

    def report(self) -> None:
        refused = sum(self.stack.said(one).count("refused: attempt") for one in self.containers["worker"])
        again = self.stack.db.one("SELECT count(*) FROM esteira_job WHERE attempt > 1 AND failures = 0")
        print(
            f"{len(self.acknowledged())} jobs accepted, 0 lost, 0 doubled through {len(self.told)} events, "
            f"SEED={SEED}; {again} ran again, {refused} late results refused"
        )

    def _events(self) -> list[Callable[[], None]]:
        return [
            self._kill_a_worker,
            self._kill_a_worker,
            self._kill_a_pool_process,
            self._kill_a_pool_process,
            self._kill_beat,
            self._kill_web,
            self._kill_redis,
            self._kill_postgres,
            self._kill_flower,
            self._kill_everything,
            self._pause_a_worker,
            self._pause_a_worker,
            self._pause_beat,
            self._pause_redis,
            self._wipe_redis,
            self._cut_a_worker_off_from_redis,
            self._cut_a_worker_off_from_postgres,
        ]

    def _kill_a_worker(self) -> None:
        self._kill(self._one("worker"))

    def _kill_a_pool_process(self) -> None:
        """Nothing happens to a worker that is down, or has no pool yet, or is stopped and could not reap it."""
        worker = self._one("worker")
        if not self._harmed(worker) and (processes := self.stack.pool(worker)):
            kill(self.chance.choice(processes))

    def _kill_beat(self) -> None:
        self._kill(self._one("beat"))

    def _kill_web(self) -> None:
        self._kill(self._one("web"))

    def _kill_redis(self) -> None:
        self._kill(self._one("redis"))

    def _kill_postgres(self) -> None:
        self._kill(self._one("postgres"))

    def _kill_flower(self) -> None:
        self._kill(self._one("flower"))

    def _kill_everything(self) -> None:
        self._kill(*(one for containers in self.containers.values() for one in containers))

    def _pause_a_worker(self) -> None:
        worker = self._one("worker")
        self._for_a_while(worker, lambda: self.stack.stopped(worker), self.stack.lease_s * 2.5)

    def _pause_beat(self) -> None:
        beat = self._one("beat")
        self._for_a_while(beat, lambda: self.stack.stopped(beat), 8)

    def _pause_redis(self) -> None:
        redis = self._one("redis")
        self._for_a_while(redis, lambda: self.stack.stopped(redis), 4)

    def _wipe_redis(self) -> None:
        """As its admin; one that is down is wiped already."""
        if self.stack.serves("redis"):
            with self.stack.redis("admin") as admin:
                admin.flushall()

    def _cut_a_worker_off_from_redis(self) -> None:
        self._cut_a_worker_off("redis")

    def _cut_a_worker_off_from_postgres(self) -> None:
        self._cut_a_worker_off("postgres")

    def _cut_a_worker_off(self, service: str) -> None:
        """A server that is down has no address to be cut off from."""
        worker = self._one("worker")
        if self.stack.addresses(service):
            self._for_a_while(worker, lambda: self.stack.cut(worker, service), self.stack.lease_s * 2)

    def _kill(self, *containers: str) -> None:
        """Whatever is stopped is let go first: its next life is harmed anew or not at all."""
        for one in [one for one in self.healing if one[1] in containers]:
            self.healing.remove(one)
            one[2].close()
        self.stack.kill(*containers)

    def _one(self, service: str) -> str:
        return self.chance.choice(self.containers[service])

    def _harmed(self, container: str) -> bool:
        return container in [one for _, one, _ in self.healing]

    def _for_a_while(
        self, victim: str, harm: Callable[[], AbstractContextManager[None]], longest: float
    ) -> None:
        """Harm a container that runs and is not harmed yet; `heal` ends it."""
        state = self.stack.inspect(victim)["State"]
        if not state["Running"] or not state["Pid"] or self._harmed(victim):
            return
        until = ExitStack()
        until.enter_context(harm())
        self.healing.append((self.watch.seconds + self.chance.uniform(0.3, longest), victim, until))

    def _submit_over_http(self) -> None:
        chance, n = random.Random(SEED + 1), 0
        while not self.enough.wait(chance.expovariate(PER_SECOND / 2)):
            name, params = chance.choice(ORDERS)
            self.api.submit(str(n := n + 1), name, params)

    def _submit_from_python(self) -> None:
        chance = random.Random(SEED + 2)
        while not self.enough.wait(chance.expovariate(PER_SECOND / 8)):
            name, params = chance.choice(ORDERS)
            self.from_python += self.stack.submitter.submit(
                name, [params] * 4, delay=chance.choice([0, 0, 2])
            )
