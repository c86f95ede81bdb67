"""How much work KEDA sees: the question of k8s/keda/worker.yaml, put to a real PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml

from esteira.db import PrivateConnection
from tests.repo.tree import text
from tests.support.jobs import TYPE, elapse, ended, running, stored

(SCALED,) = [one for one in yaml.safe_load_all(text("k8s/keda/worker.yaml")) if one["kind"] == "ScaledObject"]
QUERY = SCALED["spec"]["triggers"][0]["metadata"]["query"]
#: Where each part of the question stops.
ENOUGH = 1000
MANY = 30_000

FILL = """
INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, run_at,
  published_at, state, finished_at)
SELECT gen_random_uuid(), %(type)s, '{}', %(queue)s, 6, 4, 2, 10, 600,
  clock_timestamp() + %(delay_s)s * interval '1 second',
  CASE WHEN %(published)s THEN clock_timestamp() END, %(state)s::text,
  CASE WHEN %(state)s::text = 'succeeded' THEN clock_timestamp() END
FROM generate_series(1, %(n)s)"""


def fill(core: PrivateConnection, n: int = MANY, **fields: Any) -> None:
    plain = {"type": TYPE, "queue": "default", "delay_s": 0.0, "published": False, "state": "queued", "n": n}
    core.fetch(FILL, plain | fields)


@pytest.fixture
def keda(core: PrivateConnection) -> Iterator[psycopg.Connection]:
    """A connection as KEDA opens it: by the address alone, with none of the core's settings."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def demand(keda: psycopg.Connection) -> int:
    row = keda.execute(QUERY).fetchone()
    assert row is not None
    return row[0]


def pause(core: PrivateConnection, queue: str) -> None:
    core.fetch(
        """INSERT INTO esteira_queue (name, paused_at, paused_by, reason) VALUES (%s, clock_timestamp(), '', '')
           ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at""",
        [queue],
    )


def test_an_empty_table_is_no_work(keda: psycopg.Connection) -> None:
    assert demand(keda) == 0


def test_what_is_due_counts_published_or_not_whatever_its_queue_priority_and_type(
    keda: psycopg.Connection, core: PrivateConnection
) -> None:
    stored(core, 3)
    stored(core, 2, publish=True)
    stored(core, 1, queue="mail", priority=3)
    stored(core, 1, queue="mail", priority=9, type="tests.from_the_future")
    stored(core, 1, type="tests.other")

    assert demand(keda) == 8


def test_what_runs_counts(keda: psycopg.Connection, core: PrivateConnection) -> None:
    running(core, 3)

    assert demand(keda) == 3


def test_what_is_scheduled_counts_from_its_time_on(keda: psycopg.Connection, core: PrivateConnection) -> None:
    now, _ = stored(core, 2, delay_s=3600.0)
    assert demand(keda) == 0

    elapse(core, now, "run_at", 3601)

    assert demand(keda) == 1


def test_what_rests_or_has_expired_does_not_count(keda: psycopg.Connection, core: PrivateConnection) -> None:
    resting, rested, expired = stored(core, 3)
    core.fetch(
        "UPDATE esteira_job SET hold_until = clock_timestamp() + interval '1 minute' WHERE id = ANY(%s)",
        [[resting, rested]],
    )
    elapse(core, rested, "hold_until", 61)
    core.fetch("UPDATE esteira_job SET expires_at = clock_timestamp() WHERE id = %s", [expired])

    assert demand(keda) == 1


def test_paused_queues_do_not_count_but_what_runs_there_does(
    keda: psycopg.Connection, core: PrivateConnection
) -> None:
    stored(core, 2, queue="mail")
    stored(core, 2, queue="mail", publish=True)
    running(core, 1, queue="mail")
    stored(core, 1)

    pause(core, "mail")

    assert demand(keda) == 2


def test_a_queue_that_goes_on_counts_again(keda: psycopg.Connection, core: PrivateConnection) -> None:
    stored(core, 2, queue="mail")
    pause(core, "mail")
    assert demand(keda) == 0

    core.fetch("UPDATE esteira_queue SET paused_at = NULL")

    assert demand(keda) == 2


@pytest.mark.parametrize("state", ["succeeded", "failed", "dead", "cancelled", "expired"])
def test_what_has_ended_does_not_count(keda: psycopg.Connection, core: PrivateConnection, state: str) -> None:
    (job,) = stored(core)

    ended(core, job, state)

    assert demand(keda) == 0


def test_what_is_not_committed_does_not_count(keda: psycopg.Connection, core: PrivateConnection) -> None:
    with core.transaction():
        stored(core)
        assert demand(keda) == 0

    assert demand(keda) == 1


def test_it_stops_counting_when_it_is_enough_for_any_number_of_pods(
    keda: psycopg.Connection, core: PrivateConnection
) -> None:
    fill(core, 3 * ENOUGH)
    fill(core, 3 * ENOUGH, queue="mail", published=True)

    assert demand(keda) == 2 * ENOUGH
    assert SCALED["spec"]["maxReplicaCount"] < ENOUGH / 2


BACKLOGS: dict[str, tuple[dict[str, Any], ...]] = {
    "waiting": ({},),
    "published": ({"published": True},),
    "scheduled": ({"delay_s": 3600.0},),
    "paused": ({"queue": "mail"},),
    "ended": ({"state": "succeeded"},),
    "all": (
        {},
        {"published": True},
        {"delay_s": 3600.0},
        {"queue": "mail"},
        {"state": "succeeded"},
    ),
}


@pytest.mark.parametrize("known", ["nothing", "that it was empty", "all"])
@pytest.mark.parametrize("backlog", BACKLOGS)
def test_a_backlog_is_not_walked_whatever_the_planner_knows(
    keda: psycopg.Connection, core: PrivateConnection, planner_knows_nothing: None, backlog: str, known: str
) -> None:
    """Each part stops after a thousand rows, found in an index; a walk over these would read tens of thousands."""
    pause(core, "mail")
    stored(core, 2, type="tests.other")
    if known == "that it was empty":
        core.fetch("ANALYZE esteira_job")
    for fields in BACKLOGS[backlog]:
        fill(core, **fields)
    if known == "all":
        core.fetch("ANALYZE esteira_job")

    blocks, rows, scans = read(keda)

    assert rows <= 3 * ENOUGH, scans
    assert blocks < 4 * ENOUGH, scans


@pytest.fixture
def planner_knows_nothing(core: PrivateConnection) -> Iterator[None]:
    core.fetch("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")
    yield
    core.fetch("ALTER TABLE esteira_job RESET (autovacuum_enabled)")
    core.fetch("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")


def read(keda: psycopg.Connection) -> tuple[int, int, list[str]]:
    """Return the blocks and the rows of jobs that the question reads, and how."""
    found = keda.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {QUERY}").fetchone()
    assert found is not None
    plan, scans, rows = found[0][0]["Plan"], [], 0

    def walk(node: dict[str, Any]) -> None:
        nonlocal rows
        if node.get("Relation Name") == "esteira_job" and node["Actual Loops"]:
            each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            scans.append(
                f"{node['Node Type']} {node.get('Index Name', '')}: {each:g} × {node['Actual Loops']}"
            )
            rows += round(each * node["Actual Loops"])
        for child in node.get("Plans", []):
            walk(child)

    walk(plan)
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], rows, scans
