"""A keeper's turns before a million waiting jobs: what they cost the database with nothing to publish and with
something; and after a million jobs have run since the last VACUUM, without an old snapshot and under one.

The time is that of the keeper's own statements, seen from its side of the connection, so it is at least what the
database spends.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from bench.amounts import Amounts
from bench.bench_jobs import timed
from bench.database import Database
from bench.parts import Machine
from bench.probes import Figures
from esteira.db import Params, PrivateConnection, Row
from esteira.keeper.hold import Hold
from esteira.keeper.rescue import Expirer, Rescuer
from esteira.keeper.scheduler import DATABASE_TIMEOUT_S, Keeper
from esteira.keeper.turns import Turns

LONGEST_PUBLISH_S = 20.0
LONGEST_WALK_S = 60.0


class _Clock:
    """Adds up the time of every statement of the core's private connections in this process."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._fetch = PrivateConnection.fetch

    def __enter__(self) -> _Clock:
        fetch, clock = self._fetch, self

        def timed_fetch(core: PrivateConnection, sql: str, params: Params = ()) -> list[Row]:
            began = time.perf_counter()
            try:
                return fetch(core, sql, params)
            finally:
                clock.spent += time.perf_counter() - began

        PrivateConnection.fetch = timed_fetch  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        PrivateConnection.fetch = self._fetch  # type: ignore[method-assign, assignment]


def measure(machine: Machine, database: Database, amounts: Amounts) -> Figures:
    """Fill the table, then turn: without any worker, while publishing, with all lists full."""
    machine.empty_redis()
    database.empty()
    database.forget_workers()
    database.fill(timed.noop.name, amounts.waiting)
    keeper = Keeper()
    with _Clock() as clock:
        nobody = _turns(keeper, clock, amounts.turns)
        database.announce_worker(timed.noop.name)
        publishing = _publish(keeper, clock, database)
        full = _turns(keeper, clock, amounts.turns)
    database.empty()
    database.forget_workers()
    return {**_figures("no worker", nobody), **_figures("lists full", full), **publishing}


def after_what_ran(machine: Machine, database: Database, amounts: Amounts) -> Figures:
    """Let jobs run that no VACUUM cleans up after, first because none came, then because of an old snapshot."""
    with database.without_vacuum():
        found = _after_what_ran(machine, database, amounts, "what ran", nullcontext())
    return found | _after_what_ran(machine, database, amounts, "a snapshot", database.old_snapshot())


def _after_what_ran(
    machine: Machine,
    database: Database,
    amounts: Amounts,
    where: str,
    held: AbstractContextManager[None],
) -> Figures:
    """Sweep, then turn; return the ms of sweeps and of turns."""
    machine.empty_redis()
    database.empty()
    sweeper, core = _Sweeper(), PrivateConnection("keeper", timeout_s=DATABASE_TIMEOUT_S)
    walk = sweeper.rescuer.walk
    with held, _Clock() as clock:
        database.run_through(timed.noop.name, amounts.ended)
        first, began = [], time.monotonic()
        while not walk.been_through and time.monotonic() - began < LONGEST_WALK_S:
            first += _sweeps(sweeper, core, clock, 1)
        later = _sweeps(sweeper, core, clock, amounts.turns)
        database.announce_worker(timed.noop.name)
        keeper = Keeper()
        _turns(keeper, clock, amounts.turns)
        database.keep_worker()
        whole = _turns(keeper, clock, amounts.turns)
    core.close()
    database.empty()
    database.forget_workers()
    return {
        **_figures(f"sweep after {where}", later),
        **_figures(f"turn after {where}", whole),
        f"first walk after {where}, sweeps": len(first),
        f"first walk after {where}, worst ms": max(first, default=0.0),
    }


class _Sweeper:
    """What a keeper does first in each turn."""

    def __init__(self) -> None:
        self.hold, self.rescuer, self.expirer = Hold(), Rescuer(), Expirer()

    def sweep(self, core: PrivateConnection) -> None:
        self.rescuer.step(core, self.hold.look(core, Turns(), was_away=False))
        self.expirer.step(core)


def _sweeps(sweeper: _Sweeper, core: PrivateConnection, clock: _Clock, number: int) -> list[float]:
    spent = []
    for _ in range(number):
        time.sleep(0.5)
        clock.spent = 0.0
        sweeper.sweep(core)
        spent.append(clock.spent * 1000)
    return spent


def _turns(keeper: Keeper, clock: _Clock, turns: int) -> list[float]:
    """Turn in the keeper's own rhythm; return the ms of each turn."""
    keeper.turn()
    spent = []
    for _ in range(turns):
        time.sleep(0.5)
        clock.spent = 0.0
        keeper.turn()
        spent.append(clock.spent * 1000)
    return spent


def _publish(keeper: Keeper, clock: _Clock, database: Database) -> Figures:
    """Turn until the lists are full; return what one published job costs."""
    clock.spent, began = 0.0, time.monotonic()
    while keeper.turn() == 0.0 and time.monotonic() - began < LONGEST_PUBLISH_S:
        database.keep_worker()
    took = time.monotonic() - began
    published = max(1, database.published())
    return {
        "publishing µs": took * 1e6 / published,
        "publishing, database µs": clock.spent * 1e6 / published,
        "published": published,
    }


def _figures(where: str, turns: Sequence[float]) -> Figures:
    return {f"keeper, {where} ms": statistics.median(turns), f"keeper, {where}, worst ms": max(turns)}
