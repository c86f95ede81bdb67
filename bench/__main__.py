"""Measure in turns, and say how the goals came out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command

from bench import paced, scaling, table
from bench.amounts import QUICK, USUAL, Amounts
from bench.celery_side import CelerySide
from bench.database import Database
from bench.esteira_side import EsteiraSide
from bench.parts import Machine
from bench.peers.known import PEERS
from bench.peers.side import PeerSide
from bench.probes import Figures

CONCURRENCY = 2
PARTS = {
    "workers": "the no-op with one worker, two and four",
    "rounds": "rates and latencies, side by side in turns",
    "paced": "latency at a fixed rate, side by side in turns",
    "unseen": "a job type that was never measured",
    "http": "jobs submitted by HTTP",
    "idle": "a stack that has nothing to do",
    "keeper": "the keeper's turns before a million jobs, after a million, and under an old snapshot",
}


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end servers and processes on the way out
    machine = Machine()
    try:
        machine.start()
        machine.settle_environment(CONCURRENCY)
        django.setup()
        call_command("migrate", verbosity=0)
        result = measure(machine, options)
    finally:
        machine.stop()
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    table.show(result)
    if options.quick:
        _say("This was --quick: it shows that the benchmark runs, and its numbers mean nothing.")


def measure(machine: Machine, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for; return all figures, their medians and the goals."""
    began = time.monotonic()
    bench = Bench(machine, QUICK if options.quick else USUAL, options.rounds)
    try:
        bench.warm_up()
        if options.peers:
            bench.add_peers()
        for name in options.only or (["rounds"] if options.peers else PARTS):
            _say(f"{name}: {PARTS[name]}")
            getattr(bench, name)()
        server = bench.database.settings()
    finally:
        bench.close()
    return {
        **table.summary(bench.found, bench.once),
        "rounds": bench.found,
        "once": bench.once,
        "left out": bench.left_out,
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "PostgreSQL was started with": server,
        },
        "seconds": time.monotonic() - began,
    }


class Bench:
    """What was found, and the sides that find it. A method for each name in PARTS."""

    def __init__(self, machine: Machine, amounts: Amounts, rounds: int) -> None:
        self._machine, self._amounts, self._rounds = machine, amounts, rounds
        self.database = Database(machine.postgres.url)
        self._esteira = EsteiraSide(machine, self.database, amounts, CONCURRENCY)
        self._celery = CelerySide(machine, amounts, CONCURRENCY)
        self._sides: dict[str, EsteiraSide | CelerySide] = {"esteira": self._esteira, "celery": self._celery}
        self._peers: dict[str, PeerSide] = {}
        self.found: list[dict[str, Figures]] = []
        self.once: dict[str, Figures] = {}
        self.left_out: dict[str, str] = {}

    def warm_up(self) -> None:
        _say("warming up: Esteira's run times become known")
        self._esteira.warm_up()

    def close(self) -> None:
        self._esteira.stop()
        self.database.close()

    def add_peers(self) -> None:
        """Build the peers; one that cannot be built is left out."""
        for peer in PEERS:
            _say(f"building {peer.name}")
            try:
                self._peers[peer.name] = PeerSide(peer, self._machine, self._amounts, CONCURRENCY)
            except Exception as error:  # it cannot be built, or does not start
                self._leave_out(peer.name, error)

    def rounds(self) -> None:
        for number in range(1, self._rounds + 1):
            _say(f"round {number} of {self._rounds}: {', '.join([*self._sides, *self._peers])}")
            self.found.append({name: side.round() for name, side in self._sides.items()})
            for peer in list(self._peers.values()):
                self._measure(peer)

    def _measure(self, peer: PeerSide) -> None:
        """Add a peer's figures to the round; one that fails is left out from here on."""
        try:
            self.found[-1][peer.name] = peer.round()
        except Exception as error:  # whatever another program does, the figures of all others remain
            del self._peers[peer.name]
            self._leave_out(peer.name, error)

    def _leave_out(self, name: str, why: Exception) -> None:
        self.left_out[name] = str(why)
        _say(f"{name} is left out: {why}")

    def paced(self) -> None:
        for found in paced.measure(self._esteira, self._celery, self._rounds):
            self.found.append(found)

    def unseen(self) -> None:
        self.once["unseen"] = self._esteira.unseen()

    def keeper(self) -> None:
        from bench import keeper_side  # noqa: PLC0415 — it imports models, for which Django must be set up

        self._esteira.stop()  # this part turns by itself
        found = keeper_side.measure(self._machine, self.database, self._amounts)
        self.once["keeper"] = found | keeper_side.after_what_ran(self._machine, self.database, self._amounts)

    def http(self) -> None:
        from bench import http_side  # noqa: PLC0415 — the same

        self.once["http"] = http_side.measure(self._machine, self._esteira, self._amounts)

    def idle(self) -> None:
        from bench import idle  # noqa: PLC0415 — the same

        self.once["idle"] = idle.measure(self._machine, self._esteira, self._amounts)

    def workers(self) -> None:
        self.once["workers"] = scaling.measure(self._esteira, self._amounts.workers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns (5)")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="other queues, too; by themselves, the rounds are all that is measured",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="NAME",
        help=f"measure this part; again for several: {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny numbers: shows that it runs, measures nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
