"""What must hold after every run, whatever was killed: `esteira.promise`, and what only the tests' own jobs can show.

Numbers in brackets are those of the list that the chaos tests promise to check. Each finding is said with up
to five jobs, so that a failure can be followed in the logs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from esteira import promise
from tests.support.observer import Observer

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many jobs a check was about, and what had become of them."""

    accepted: int
    lost: int
    doubled: int


#: What was checked so far, for the table that the chaos tests print.
TALLIES: list[Tally] = []


def check(
    db: Observer,
    acknowledged: Iterable[str] = (),
    *,
    may_die: Collection[str] = (),
    may_fail: Collection[str] = (),
    may_cancel: Collection[str] = (),
    crashed: bool = True,
) -> None:
    """Raise AssertionError with all that is wrong; `may_…` are the types which were made to end so."""
    known = list(acknowledged)
    TALLIES.append(_tally(db, known))
    found = {name: rows for name, rows in _findings(db, known, may_die, may_fail, may_cancel) if rows}
    if not crashed:
        found |= {n: r for n, r in [("suspected although nothing crashed", _suspected(db))] if r}
    assert not found, "\n".join(_said(db, name, rows) for name, rows in found.items())


def _findings(
    db: Observer,
    acknowledged: list[str],
    may_die: Collection[str],
    may_fail: Collection[str],
    may_cancel: Collection[str],
) -> Iterable[tuple[str, list[Any]]]:
    yield (
        "acknowledged, but no row [1]",
        db.fetch(
            """SELECT a.id FROM unnest(%s::uuid[]) AS a(id)
               WHERE NOT EXISTS (SELECT 1 FROM esteira_job j WHERE j.id = a.id)""",
            [acknowledged],
        ),
    )
    yield (
        "not ended [2]",
        db.fetch("SELECT id FROM esteira_job WHERE state IN ('queued', 'running')"),
    )
    yield (
        "effects are not one for a success and none otherwise [3]",
        db.fetch(
            """SELECT j.id FROM esteira_job j LEFT JOIN effect e ON e.job_id = j.id
               WHERE j.type LIKE 'effects.%%' GROUP BY j.id
               HAVING count(e.id) <> (j.state = 'succeeded')::int"""
        ),
    )
    yield (
        "an effect of nobody's success [3, 11]",
        db.fetch(
            """SELECT e.job_id FROM effect e LEFT JOIN esteira_job j ON j.id = e.job_id
               WHERE j.id IS NULL OR j.state <> 'succeeded'"""
        ),
    )
    yield (
        "the effect or the result is another attempt's than the success [4]",
        db.fetch(
            """SELECT j.id FROM esteira_job j JOIN effect e ON e.job_id = j.id
               WHERE e.attempt <> j.attempt OR (j.result->>'attempt')::int <> j.attempt"""
        ),
    )
    yield from ((one.rule, rows) for one, rows in promise.broken(db))
    for state, allowed in (
        ("dead", may_die),
        ("failed", may_fail),
        ("cancelled", may_cancel),
        ("expired", ()),
    ):
        yield (
            f"{state}, and nobody asked for it [10]",
            db.fetch(
                "SELECT id FROM esteira_job WHERE state = %s AND type <> ALL(%s)", [state, list(allowed)]
            ),
        )


def _tally(db: Observer, acknowledged: list[str]) -> Tally:
    """Count what was acknowledged; all rows, if nobody kept what they were told."""
    ((accepted, ended, doubled),) = db.fetch(
        """SELECT count(*), count(*) FILTER (WHERE j.state NOT IN ('queued', 'running')),
             count(*) FILTER (WHERE (SELECT count(*) FROM effect e WHERE e.job_id = a.id) > 1)
           FROM (SELECT DISTINCT unnest(%(ids)s::uuid[]) AS id
                 UNION SELECT id FROM esteira_job WHERE cardinality(%(ids)s::uuid[]) = 0) a
           LEFT JOIN esteira_job j ON j.id = a.id""",
        {"ids": acknowledged},
    )
    return Tally(accepted=accepted, lost=accepted - ended, doubled=doubled)


def _suspected(db: Observer) -> list[Any]:
    return db.fetch("SELECT id FROM esteira_job WHERE suspicion > 0 OR solo")


def check_ticks(db: Observer, name: str, *, at_least: int) -> int:
    """Check that a schedule of one second missed and doubled no tick; return how many there were."""
    ticks = [
        row[0]
        for row in db.fetch(
            """SELECT j.tick_at FROM esteira_job j JOIN esteira_schedule s ON s.id = j.schedule_id
               WHERE s.name = %s ORDER BY 1""",
            [name],
        )
    ]
    gaps = [(a, b) for a, b in zip(ticks, ticks[1:], strict=False) if (b - a).total_seconds() != 1]
    assert not gaps, f"missed or doubled ticks around {gaps[:SHOWN]}"
    assert len(ticks) >= at_least, f"only {len(ticks)} ticks"
    return len(ticks)


def check_hints(longest: int, *, window: int, slots: int) -> None:
    """Check that no list in Redis was longer than its window and what may be under way beside it [9]."""
    assert longest <= window + slots, f"a list in Redis held {longest} messages; its window is {window}"


def _said(db: Observer, name: str, rows: list[Any]) -> str:
    jobs = [
        db.fetch(
            """SELECT j.id, j.type, j.state, j.attempt, j.failures, j.suspicion, j.worker, j.result,
                 j.error->>'message',
                 (SELECT array_agg(e.kind || '/' || e.attempt ORDER BY e.id) FROM esteira_jobevent e
                  WHERE e.job_id = j.id),
                 (SELECT array_agg(f.attempt ORDER BY f.id) FROM effect f WHERE f.job_id = j.id)
               FROM esteira_job j WHERE j.id::text = %s""",
            [str(row[0])],
        )
        or [row]
        for row in rows[:SHOWN]
    ]
    return f"{len(rows)} × {name}\n" + "\n".join(f"    {' '.join(map(str, one[0]))}" for one in jobs)
