"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Numbers of jobs; `watched_ms` is how many of the fresh 1 ms jobs are waited for."""

    short: int = 10_000
    short_ms: int = 3_000
    fresh: int = 100_000
    watched_ms: int = 10_000
    unseen: int = 10_000
    plain: int = 4_000
    plain_ms: int = 2_000
    probes: int = 150
    waiting: int = 1_000_000
    ended: int = 1_000_000
    turns: int = 20
    bare_s: float = 1.5
    warm: int = 200


USUAL = Amounts()
QUICK = Amounts(
    short=400, short_ms=100, fresh=1_000, watched_ms=200, unseen=60, plain=200, plain_ms=100, probes=8, waiting=2_000,
    ended=2_000,
    turns=3, bare_s=0.2, warm=0,
)  # fmt: skip
