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

from bench import table
from bench.amounts import QUICK, USUAL, Amounts
from bench.celery_side import CelerySide
from bench.database import Database
from bench.esteira_side import EsteiraSide
from bench.parts import Machine

CONCURRENCY = 2


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end servers and processes on the way out
    machine = Machine()
    try:
        machine.start()
        machine.settle_environment(CONCURRENCY)
        django.setup()
        call_command("migrate", verbosity=0)
        result = measure(machine, QUICK if options.quick else USUAL, options.rounds)
    finally:
        machine.stop()
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    table.show(result)
    if options.quick:
        _say("This was --quick: it shows that the benchmark runs, and its numbers mean nothing.")


def measure(machine: Machine, amounts: Amounts, rounds: int) -> dict[str, Any]:
    """Take turns; return all figures, their medians and the goals."""
    from bench import keeper_side  # noqa: PLC0415 — it imports models, for which Django must be set up

    began = time.monotonic()
    database = Database(machine.postgres.url)
    esteira = EsteiraSide(machine, database, amounts, CONCURRENCY)
    celery = CelerySide(machine, amounts, CONCURRENCY)
    _say("warming up: Esteira's run times become known")
    esteira.warm_up()
    found = []
    for number in range(1, rounds + 1):
        _say(f"round {number} of {rounds}: Esteira with the bare loop, plain Celery")
        found.append({"esteira": esteira.round(), "celery": celery.round()})
    _say("once: a job type that was never measured")
    once = {"unseen": esteira.unseen()}
    _say(f"once: the keeper before {amounts.waiting:,} waiting jobs")
    once["keeper"] = keeper_side.measure(machine, database, amounts)
    _say(f"once: the keeper after {amounts.ended:,} jobs that ran under somebody's snapshot")
    once["keeper"] |= keeper_side.after_what_ran(machine, database, amounts)
    database.close()
    return {
        **table.summary(found, once),
        "rounds": found,
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "seconds": time.monotonic() - began,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny numbers: shows that it runs, measures nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
