"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

#: Jobs in one call of a bulk submit, where that is compared.
SLICE = 500


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Numbers of jobs; `watched_ms` is how many of the fresh 1 ms jobs are waited for.

    `_s` are seconds: of the bare loop, of each load on web, and of an idle stack before and while it is measured.
    """

    short: int = 10_000
    short_ms: int = 3_000
    fresh: int = 200_000
    watched_ms: int = 10_000
    unseen: int = 10_000
    plain: int = 4_000
    plain_ms: int = 2_000
    probes: int = 150
    #: Fewer than a list in Redis takes (`WINDOW`), so that each call sends its message.
    calls: int = 900
    waiting: int = 1_000_000
    ended: int = 1_000_000
    turns: int = 20
    bare_s: float = 1.5
    warm: int = 200
    paced: int = 1_000
    workers: tuple[int, ...] = (1, 2, 4)
    http_s: float = 8.0
    settle_s: float = 15.0
    idle_s: float = 30.0
    most_for_a_peer: int = 1_000_000
    #: Whether a part goes on with the processes of the one before, and kills workers instead of draining them.
    hurry: bool = False


USUAL = Amounts()
QUICK = Amounts(
    short=100, short_ms=40, fresh=600, watched_ms=100, unseen=20, plain=100, plain_ms=40, probes=5, calls=20,
    waiting=2_000, ended=2_000, turns=2, bare_s=0.1, warm=0, paced=20, workers=(2,), http_s=0.3, settle_s=0.0,
    idle_s=0.5, most_for_a_peer=100, hurry=True,
)  # fmt: skip
