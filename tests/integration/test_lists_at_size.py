"""What lists cost beside a long history: a bounded number of rows, whatever is asked for and whatever the planner knows;
and nothing is left out, shown twice or out of order, however often a search has to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction

from bench import history
from esteira import ids
from esteira.db import PrivateConnection
from esteira.search import scan
from esteira.states import SHOWN_STATE_SQL, SHOWN_STATES
from esteira_web.read.listing import Filters, page

MANY = 20_000
#: The bounds of a search in these tests, and what it reads at most beside them: what it shows, and probes.
WALKED, COLLECTED, BESIDE = 2_000, 300, 1_000
RARE, NONE = history.TYPES[19], "bench.none"


@pytest.fixture
def server() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as server:
        yield server


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MOST_ROWS", WALKED)
    for name in ("MOST_COLLECTED", "MOST_RUNNING"):
        monkeypatch.setattr(scan, name, COLLECTED)
    for name in ("BUDGET_S", "SOON_S", "LIMIT_S"):
        monkeypatch.setattr(scan, name, 60.0)  # rows are counted here, on a machine that may be busy


@pytest.fixture(params=["never analysed", "looked empty", "analysed"])
def many(
    core: PrivateConnection, server: psycopg.Connection[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """A history, and what the planner knows of it."""
    server.execute("ALTER TABLE esteira_job SET (autovacuum_enabled = false)")
    server.execute("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")
    with server.transaction():
        history.past(server, MANY)
        if request.param == "looked empty":
            core.fetch("ANALYZE esteira_job")  # which inserting does not mind
    if request.param == "analysed":
        server.execute("ANALYZE esteira_job")
    yield
    server.execute("ALTER TABLE esteira_job RESET (autovacuum_enabled)")
    server.execute("DELETE FROM pg_statistic WHERE starelid = 'esteira_job'::regclass")


def rows_read(work: Callable[[], object]) -> int:
    """Return how many rows of jobs some work on Django's connection reads."""
    with transaction.atomic(), connection.cursor() as cursor:

        def so_far() -> int:
            cursor.execute(
                """SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
                   FROM pg_stat_xact_user_tables WHERE relname = 'esteira_job'"""
            )
            return int(cursor.fetchone()[0])

        before = so_far()
        work()
        return so_far() - before


def test_no_list_reads_more_than_its_bound(many: None, small_bounds: None) -> None:
    dear = {}
    for state, type, queue in product(["", *SHOWN_STATES], ["", RARE, NONE], ["", "rare", "none"]):
        filters = Filters(states=[state] if state else [], type=type, queue=queue)
        first = page(filters, limit=200)
        cursors = ["", *filter(None, [first.next])]
        for cursor, limit in product(cursors, [1, 200]):
            read = rows_read(lambda c=cursor, n=limit, f=filters: page(f, cursor=c, limit=n))  # type: ignore[misc]
            if read > WALKED + 3 * COLLECTED + BESIDE:
                dear[state, type, queue, cursor, limit] = read

    assert not dear


def test_what_is_rare_is_found_at_the_far_end_of_the_history(
    many: None, small_bounds: None, core: PrivateConnection
) -> None:
    (oldest,) = core.fetch("SELECT id FROM esteira_job ORDER BY created_at LIMIT 1")[0]
    for state in ("dead", "failed", "retrying", "running"):
        core.fetch("SELECT set_config('session_replication_role', 'replica', false)")
        core.fetch(
            "DELETE FROM esteira_job WHERE state = %s OR %s = 'retrying' AND failures > 0", [state, state]
        )
        core.fetch(STATES[state], [oldest])

        found = page(Filters(states=[state]), limit=200)

        assert [job.pk for job in found.items] == [oldest], state
        assert found.searched_to is None, state


STATES = {
    "dead": "UPDATE esteira_job SET state = 'dead', error = '{}', result = NULL WHERE id = %s",
    "failed": "UPDATE esteira_job SET state = 'failed', error = '{}', result = NULL WHERE id = %s",
    "retrying": """UPDATE esteira_job SET state = 'queued', failures = 1, attempt = 1, finished_at = NULL, result = NULL,
                     run_at = clock_timestamp() + interval '1 day' WHERE id = %s""",
    "running": """UPDATE esteira_job SET state = 'running', worker = 'w', lease_until = clock_timestamp(),
                    claimed_at = clock_timestamp(), finished_at = NULL, result = NULL WHERE id = %s""",
}


def test_jobs_that_wait_are_found_behind_much_that_ran_since(
    core: PrivateConnection, server: psycopg.Connection[Any], small_bounds: None
) -> None:
    history.waiting(server, COLLECTED * 2, queue="paused")
    core.fetch(
        f"""UPDATE esteira_job j SET created_at = v.at, run_at = v.at, id = {ids.of_job("v.at", "j.id")}
            FROM (SELECT id, created_at - interval '31 days' AS at FROM esteira_job) AS v WHERE v.id = j.id"""
    )
    history.past(server, WALKED * 3)
    core.fetch("DELETE FROM esteira_job WHERE state = 'queued' AND queue <> 'paused'")

    found = page(Filters(states=["queued"]), limit=200)

    assert {job.queue for job in found.items} == {"paused"}
    assert len(found.items) == 200


@pytest.fixture
def tiny_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MOST_ROWS": 150,
        "FIRST_ROWS": 40,
        "LEAST_ROWS": 20,
        "GLANCE_ROWS": 5,
        "MOST_COLLECTED": 12,
        "MOST_RUNNING": 12,
        "SOON_S": 60.0,
        "LIMIT_S": 60.0,
    }.items():
        monkeypatch.setattr(scan, name, value)
    monkeypatch.setattr(scan, "BUDGET_S", 60.0)


LISTS = [
    *[Filters(states=[state]) for state in SHOWN_STATES],
    Filters(),
    Filters(states=["failed", "dead"]),
    Filters(states=["queued", "running", "failed"]),
    Filters(states=["queued", "scheduled", "retrying"]),
    Filters(states=["succeeded", "expired"], queue="mail"),
    Filters(states=["queued"], type=history.TYPES[1]),
    Filters(type=history.TYPES[5]),
    Filters(queue="rare"),
    Filters(type=NONE),
]


def test_a_search_that_goes_on_leaves_out_nothing_there_and_back(
    core: PrivateConnection, server: psycopg.Connection[Any], tiny_bounds: None
) -> None:
    history.past(server, 2_000)
    core.fetch(  # jobs of all kinds that are due: by their delay, given back by an operator, due in the past
        """UPDATE esteira_job SET run_at = CASE number %% 3 WHEN 0 THEN created_at WHEN 1 THEN clock_timestamp()
             ELSE created_at - interval '9 days' END
           FROM (SELECT id AS one, row_number() OVER () AS number FROM esteira_job WHERE state = 'queued') AS n
           WHERE one = id AND (number %% 4 = 0 OR run_at < clock_timestamp())""",
        {},
    )
    core.fetch(
        "UPDATE esteira_job SET published_at = run_at WHERE state = 'queued' AND params->>'number' ~ '[02468]$'"
    )

    for filters in LISTS:
        wanted = expected(core, filters)
        there, last = followed(filters, "next", "")
        assert there == wanted, filters
        back, _ = followed(filters, "prev", last)
        assert back == wanted[::-1][-len(back) :], filters


def expected(core: PrivateConnection, filters: Filters) -> list[UUID]:
    rows = core.fetch(
        f"""SELECT id FROM esteira_job WHERE ({SHOWN_STATE_SQL} = ANY(%(states)s) OR cardinality(%(states)s) = 0)
              AND type = coalesce(nullif(%(type)s, ''), type) AND queue = coalesce(nullif(%(queue)s, ''), queue)
            ORDER BY created_at DESC, id DESC""",
        {"states": list(filters.states), "type": filters.type, "queue": filters.queue},
    )
    return [row[0] for row in rows]


def followed(filters: Filters, way: str, cursor: str) -> tuple[list[UUID], str]:
    """Follow `next` or `prev` to the end; return the ids in the order of the way, and the last cursor that led back."""
    seen, back = list[UUID](), ""
    while True:
        found = page(filters, cursor=cursor, limit=100)
        here = [job.pk for job in found.items]
        assert found.items or found.searched_to or not getattr(found, way)
        seen += here if way == "next" else here[::-1]
        back = (found.prev if way == "next" else found.next) or back
        cursor = getattr(found, way) or ""
        if not cursor:
            return seen, back
