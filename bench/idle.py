"""What a stack costs that has nothing to do: the CPU of each part in percent of one core, and its memory.

Memory is the proportional set size: a page that several processes share counts once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from bench import web
from bench.amounts import Amounts
from bench.esteira_side import EsteiraSide
from bench.parts import Machine, Meter
from bench.probes import Figures


def measure(machine: Machine, esteira: EsteiraSide, amounts: Amounts) -> Figures:
    """Start everything, let it settle, and look."""
    with esteira.running(), web.running(machine) as part:
        trees = {**esteira.trees(), "web": [part.part.process]}
        time.sleep(amounts.settle_s)
        meter, began = Meter(trees), time.monotonic()
        time.sleep(amounts.idle_s)
        share = 100 / (time.monotonic() - began)
        used = {name: seconds * share for name, seconds in meter.seconds().items() if name in trees}
        held = _memory(trees)
    cpu = {f"idle, {name}, %": percent for name, percent in used.items()}
    memory = {f"idle, {name}, MB": size for name, size in held.items()}
    return {"idle, all, %": sum(used.values()), **cpu, "idle, all, MB": sum(held.values()), **memory}


def _memory(trees: Mapping[str, Sequence[psutil.Process]]) -> dict[str, float]:
    found = dict.fromkeys(trees, 0.0)
    for name, roots in trees.items():
        for process in [each for root in roots for each in (root, *root.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):
                info = process.memory_full_info()
                found[name] += getattr(info, "pss", info.uss) / 1e6
    return found
