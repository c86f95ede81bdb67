"""What statements cost: rows are named by primary key, whatever the planner knows; a backlog is free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from esteira.db import PrivateConnection
from esteira.record import claim, finish, lease, publish, rescue, telling, waiting
from tests.support.jobs import TYPE, outcome, running, stored
from tests.support.old_snapshots import Counted
from tests.support.plans import generic_plan

BACKLOG = 100_000
CAUSE = lease.Break(reason="connection lost", type="ConnectionLost", message="It was cut.")
#: The primary key, or the place of a row that was found by it; what runs in turn stands in an index of its own, with one row for each such schedule at most.
BY_KEY = ("esteira_job_pkey", "job_one_in_turn", "Tid Scan")

FILL = """
INSERT INTO esteira_job
  (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, published_at)
SELECT gen_random_uuid(), %(type)s, '{}', 'default', 6, 4, 2, 10, 600,
  CASE WHEN %(published)s THEN clock_timestamp() END FROM generate_series(1, %(n)s)"""


@pytest.fixture
def explained(core: PrivateConnection) -> Iterator[Explained]:
    """The core's connection, recording how each statement was executed; nothing it writes stays."""
    yield Explained(core)


class Explained:
    """A `Db` that executes each statement under EXPLAIN ANALYZE and keeps the plan."""

    def __init__(self, core: PrivateConnection) -> None:
        self.core = core
        self.plans: list[dict[str, Any]] = []
        self.buffers = 0

    def fetch(self, sql: str, params: Any = ()) -> list[Any]:
        with self.core.transaction():
            plan = generic_plan(self.core, sql, params)
            raise psycopg.Rollback
        self.plans.append(plan)
        self.buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return []

    def transaction(self) -> Any:
        return self.core.transaction()

    def scans(self) -> list[str]:
        """Return how the job table was read, by the parts of the plans that were executed."""
        found: list[str] = []

        def walk(node: dict[str, Any]) -> None:
            if (
                node.get("Relation Name", "") == "esteira_job"
                and node["Actual Loops"]
                and "Scan" in node["Node Type"]
            ):
                found.append(f"{node['Node Type']} {node.get('Index Name') or _bitmap(node)}".strip())
            for child in node.get("Plans", []):
                walk(child)

        for plan in self.plans:
            walk(plan)
        return found


def _bitmap(node: dict[str, Any]) -> str:
    return " ".join(child.get("Index Name", "") for child in node.get("Plans", []))


@pytest.fixture
def fresh_backlog(core: PrivateConnection) -> Iterator[list[UUID]]:
    """100,000 published rows that the planner has never looked at; the ids of fifty."""
    core.fetch("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")
    core.fetch(FILL, {"type": TYPE, "published": True, "n": BACKLOG})
    yield [row[0] for row in core.fetch("SELECT id FROM esteira_job LIMIT 50")]
    core.fetch("ALTER TABLE esteira_job RESET (autovacuum_enabled)")


def test_on_a_freshly_filled_table_every_write_goes_by_the_primary_key(
    core: PrivateConnection, explained: Explained, fresh_backlog: list[UUID]
) -> None:
    mine = running(core, 50)
    pairs = [(job.id, job.attempt) for job in mine]
    stamps = [
        row[0]
        for row in core.fetch("SELECT published_at FROM esteira_job WHERE id = ANY(%s)", [fresh_backlog])
    ]
    statements = {
        "claim one": lambda: claim.claim(explained, fresh_backlog[:1], worker="w", delivery="d"),
        "claim fifty": lambda: claim.claim(explained, fresh_backlog, worker="w", delivery="d"),
        "unpublish_unclaimed": lambda: claim.unpublish_unclaimed(explained, fresh_backlog),
        "refuse": lambda: claim.refuse(explained, [(i, a, "r") for i, a in pairs], worker="w"),
        "finish one": lambda: finish.finish(explained, [outcome(mine[0])]),
        "finish fifty": lambda: finish.finish(explained, [outcome(job) for job in mine]),
        "extend": lambda: lease.extend(explained, pairs),
        "start": lambda: telling.start(explained, mine[0].id, 1, 0.0),
        "progress": lambda: telling.progress(explained, mine[0].id, 1, 1, 2, ""),
        "log lines": lambda: telling.log_lines(explained, [(*one, "a line") for one in pairs]),
        "hand back": lambda: lease.hand_back(explained, pairs),
        "break off": lambda: lease.break_off(explained, mine[0].id, 1, CAUSE),
        "complete": lambda: finish.complete(explained, outcome(mine[0])),
        "kill": lambda: lease.kill(explained, mine[0].id, 1),
        "unpublish": lambda: publish.unpublish(explained, fresh_backlog, stamps),
    }

    by_other_ways = {}
    for name, run in statements.items():
        explained.plans.clear()
        run()
        if others := {scan for scan in explained.scans() if not scan.endswith(BY_KEY)}:
            by_other_ways[name] = others

    assert not by_other_ways


@pytest.fixture
def backlog_that_looked_empty(core: PrivateConnection) -> Iterator[list[UUID]]:
    """100,000 published rows, analysed while nobody saw them yet; the ids of fifty."""
    core.fetch("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    other = PrivateConnection("other")
    with core.transaction():
        core.fetch(FILL, {"type": TYPE, "published": True, "n": BACKLOG})
        # ANALYZE takes a lock that inserting does not mind.
        other.fetch("ANALYZE esteira_job")
    other.close()
    yield [row[0] for row in core.fetch("SELECT id FROM esteira_job LIMIT 50")]
    core.fetch("ALTER TABLE esteira_job RESET (autovacuum_enabled)")
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")


def test_a_planner_that_takes_a_full_table_for_empty_still_names_rows_by_key(
    core: PrivateConnection, explained: Explained, backlog_that_looked_empty: list[UUID]
) -> None:
    ids = backlog_that_looked_empty
    mine = running(core, 50)
    pairs = [(job.id, job.attempt) for job in mine]
    stamps = [row[0] for row in core.fetch("SELECT published_at FROM esteira_job WHERE id = ANY(%s)", [ids])]
    statements = {
        "claim": lambda: claim.claim(explained, ids, worker="w", delivery="d"),
        "unpublish_unclaimed": lambda: claim.unpublish_unclaimed(explained, ids),
        "refuse": lambda: claim.refuse(explained, [(i, a, "r") for i, a in pairs], worker="w"),
        "expire": lambda: claim.expire(explained),
        "finish": lambda: finish.finish(explained, [outcome(job) for job in mine]),
        "extend": lambda: lease.extend(explained, pairs),
        "hand back": lambda: lease.hand_back(explained, pairs),
        "unpublish": lambda: publish.unpublish(explained, ids, stamps),
        "publish": lambda: published_blocks(explained),
        "rescue": lambda: rescue.leases_ended(explained),
    }

    dear = {}
    for name, run in statements.items():
        explained.buffers = 0
        run()
        if explained.buffers > 10_000:  # a walk over the table takes a hundred thousand
            dear[name] = explained.buffers

    assert not dear


def touched(node: dict[str, Any]) -> float:
    """Return how many rows the nodes of a plan have produced, or compared and left out."""
    removed = sum(float(value) for name, value in node.items() if name.startswith("Rows Removed"))
    own = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return float(own + sum(touched(child) for child in node.get("Plans", [])))


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("jobs", [50, 125, 250])
def test_a_list_costs_each_of_its_jobs_the_same_however_long_it_is(
    core: PrivateConnection, explained: Explained, jobs: int, analysed: bool
) -> None:
    """A join of two lists by a nested loop compares each job with each other one. (`refuse` gets one job at a time.)"""
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")
    ids = stored(core, jobs, publish=True)
    mine = running(core, jobs)
    stamps = [row[0] for row in core.fetch("SELECT published_at FROM esteira_job WHERE id = ANY(%s)", [ids])]
    if analysed:
        core.fetch("ANALYZE esteira_job")
    pairs = [(job.id, job.attempt) for job in mine]
    statements = {
        "claim": lambda: claim.claim(explained, ids, worker="w", delivery="d"),
        "unpublish_unclaimed": lambda: claim.unpublish_unclaimed(explained, ids),
        "finish": lambda: finish.finish(explained, [outcome(job) for job in mine]),
        "extend": lambda: lease.extend(explained, pairs),
        "hand back": lambda: lease.hand_back(explained, pairs),
        "what became": lambda: finish.what_became(explained, [outcome(job) for job in mine]),
        "still mine": lambda: lease.still_mine(explained, pairs),
        "log lines": lambda: telling.log_lines(explained, [(*one, "a line") for one in pairs]),
        "unpublish": lambda: publish.unpublish(explained, ids, stamps),
        "publish": lambda: waiting.publish_these(explained, ids),
        "rescue": lambda: rescue.leases_ended(explained, [job.id for job in mine]),
        "lost process": lambda: rescue.process_lost(explained, "d1", [job.id for job in mine]),
    }

    dear = {}
    for name, run in statements.items():
        explained.plans.clear()
        run()
        if (rows := sum(map(touched, explained.plans))) > 40 * jobs:
            dear[name] = rows / jobs

    assert not dear


def test_a_rescue_reads_what_runs_and_not_the_backlog(
    core: PrivateConnection, fresh_backlog: list[UUID]
) -> None:
    mine = [job.id for job in running(core, 20)]
    counted = Counted("counted")

    rescue.leases_ended(counted)
    rescue.leases_ended(counted, mine)
    rescue.leases(counted, mine)
    for ids in (None, mine):
        rescue.process_lost(counted, "nobody's", ids)
        rescue.process_ended(counted, "nobody's", ids)
    rescue.drained(counted, me="nobody")
    rescue.worker_restarted(counted, incarnation="nobody-1-1")

    counted.close()
    assert counted.blocks < 2000


def test_expiring_reads_what_can_expire_and_not_the_backlog(
    explained: Explained, fresh_backlog: list[UUID]
) -> None:
    claim.expire(explained)

    assert explained.buffers < 100, explained.scans()


def published_blocks(explained: Explained) -> int:
    """Publish five known jobs; return how many blocks it took."""
    explained.buffers = 0
    waiting.publish_due(
        explained, queue="default", types=[TYPE, "tests.other"], priorities=[3, 6, 9], limit=100
    )
    return explained.buffers


def test_waiting_jobs_of_a_type_that_nobody_knows_cost_publishing_nothing(
    core: PrivateConnection, explained: Explained
) -> None:
    stored(core, 5)
    alone = published_blocks(explained)

    core.fetch(FILL, {"type": "tests.from_the_future", "published": False, "n": 20_000})
    beside_strangers = published_blocks(explained)

    assert beside_strangers < alone + 100, explained.scans()


def test_publishing_costs_the_same_before_a_long_backlog(
    core: PrivateConnection, explained: Explained
) -> None:
    stored(core, 100)
    short = published_blocks(explained)

    core.fetch(FILL, {"type": TYPE, "published": False, "n": 50_000})
    long = published_blocks(explained)

    assert long < short * 2 + 200, explained.scans()
