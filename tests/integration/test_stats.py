"""Counts of ends and run times: each is added once, to one row of its minute and to one total that stays."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from math import nextafter
from typing import Any

import pytest
from django.conf import settings

from esteira.db import ConnectionLost, Db, PrivateConnection
from esteira.keeper.retention import Retention
from esteira.models import Stat, StatTotal
from esteira.record import claim as claims
from esteira.stats import BOUNDS_S, BUCKETS, COUNTS, Stats
from tests.integration.test_record_concurrency import deadlocks
from tests.support.jobs import TYPE, stored

#: Each bound, and the shorter run time that is nearest to it.
RUN_TIMES = [0.0, *(seconds for bound in BOUNDS_S for seconds in (nextafter(bound, 0), bound)), 1e6]
#: Their order depends on the collation.
NAMES = ["b.work", "B.work", "a_work", "A.work", "a.work", "_work"]
PROCESSES, FLUSHES = 4, 30


def counted(names: list[str], run_times: list[float], state: str = "succeeded") -> Stats:
    stats = Stats()
    for name in names:
        for seconds in run_times:
            stats.add(name, "default", state, seconds)
    return stats


def rows(db: Db, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table as they were inserted."""
    found = db.fetch(f"SELECT type, state, {', '.join(COUNTS)} FROM {table} ORDER BY id")
    return [dict(zip(("type", "state", *COUNTS), row, strict=True)) for row in found]


def added(db: Db, table: str) -> dict[str, float]:
    """Return the sum of each column."""
    ((*sums,),) = db.fetch(f"SELECT {', '.join(f'coalesce(sum({one}), 0)' for one in COUNTS)} FROM {table}")
    return dict(zip(COUNTS, sums, strict=True))


def an_hour_passes(db: Db) -> None:
    db.fetch(
        """UPDATE esteira_stat SET minute = minute - (1 + (SELECT count(DISTINCT minute) FROM esteira_stat)) * interval '1 hour'
           WHERE minute > clock_timestamp() - interval '30 minutes'"""
    )


def test_both_tables_have_a_column_for_each_count() -> None:
    for model in (Stat, StatTotal):
        columns = {field.column for field in model._meta.get_fields()}  # type: ignore[union-attr]
        assert columns - {"id", "minute", "type", "queue", "state"} == set(COUNTS)
    assert len(BUCKETS) == len(BOUNDS_S) + 1


def test_a_run_is_counted_below_the_next_bound_only(core: PrivateConnection) -> None:
    for bucket, (shortest, longest) in zip(
        BUCKETS, zip(RUN_TIMES[::2], RUN_TIMES[1::2], strict=True), strict=True
    ):
        counted([bucket], [shortest, longest]).flush(core)

    for row in rows(core, "esteira_stat"):
        assert [column for column in BUCKETS if row[column]] == [row["type"]]
        assert row["n"] == row[row["type"]] == 2


def test_totals_are_the_sums_of_all_minutes_and_buckets_add_up_to_them(core: PrivateConnection) -> None:
    for hour in range(3):
        for _ in range(2):
            counted(NAMES[hour:], RUN_TIMES).flush(core)
            counted(NAMES[:hour], RUN_TIMES[hour:], "failed").flush(core)
        an_hour_passes(core)

    minutes, totals = added(core, "esteira_stat"), added(core, "esteira_stattotal")

    assert totals == pytest.approx(minutes)
    assert (
        totals["n"]
        == sum(totals[bucket] for bucket in BUCKETS)
        == 2 * sum((len(NAMES) - hour) * len(RUN_TIMES) + hour * (len(RUN_TIMES) - hour) for hour in range(3))
    )
    for table in ("esteira_stat", "esteira_stattotal"):
        assert all(row["n"] == sum(row[bucket] for bucket in BUCKETS) for row in rows(core, table))


def test_retention_leaves_the_totals_as_they_are(core: PrivateConnection) -> None:
    counted(NAMES, RUN_TIMES).flush(core)
    before = rows(core, "esteira_stattotal")
    core.fetch(
        "UPDATE esteira_stat SET minute = minute - %s * interval '1 day'",
        [settings.ESTEIRA_RETENTION_DAYS + 1],
    )

    assert not Retention().step(core)

    assert not rows(core, "esteira_stat")
    assert rows(core, "esteira_stattotal") == before


def test_many_flushes_share_one_row_for_each_minute_and_label(core: PrivateConnection) -> None:
    for _ in range(FLUSHES):
        counted(NAMES, RUN_TIMES).flush(core)

    assert len(rows(core, "esteira_stattotal")) == len(NAMES)
    ((labels, labels_and_minutes, stored_rows),) = core.fetch(
        "SELECT count(DISTINCT type), count(DISTINCT (type, minute)), count(*) FROM esteira_stat"
    )
    assert labels == len(NAMES)
    assert stored_rows == labels_and_minutes
    assert added(core, "esteira_stat")["n"] == FLUSHES * len(NAMES) * len(RUN_TIMES)


def test_ends_without_a_run_are_in_no_bucket(core: PrivateConnection) -> None:
    stored(core, 2, expires_in_s=0.0)
    counted([TYPE], [1.0]).flush(core)

    claims.expire(core)

    totals = {row["state"]: row for row in rows(core, "esteira_stattotal")}
    assert {state: row["n"] for state, row in totals.items()} == {"expired": 2, "succeeded": 1}
    assert not any(totals["expired"][column] for column in ("sum_ms", *BUCKETS))


def test_what_a_lost_connection_kept_is_added_once_with_the_next_flush(core: PrivateConnection) -> None:
    mine, stats = PrivateConnection("mine"), counted(NAMES, RUN_TIMES)
    core.fetch("SELECT pg_terminate_backend(%s, 10000)", mine.fetch("SELECT pg_backend_pid()")[0])

    with pytest.raises(ConnectionLost):
        stats.flush(mine)
    stats.add(NAMES[0], "default", "succeeded", 1.0)
    for _ in range(2):
        stats.flush(mine)
    mine.close()

    assert added(core, "esteira_stat")["n"] == len(NAMES) * len(RUN_TIMES) + 1
    assert added(core, "esteira_stattotal") == added(core, "esteira_stat")


def test_every_statement_locks_the_rows_of_a_minute_in_the_same_order(core: PrivateConnection) -> None:
    counted(NAMES, [1.0]).flush(core)
    for name in NAMES[::-1]:
        stored(core, 1, type=name, expires_in_s=0.0)
    claims.expire(core)

    for table in ("esteira_stat", "esteira_stattotal"):
        found = rows(core, table)
        flushed, expired = (
            [row["type"] for row in found if row["state"] == state] for state in ("succeeded", "expired")
        )
        assert sorted(flushed) == sorted(NAMES)
        assert flushed == expired


def test_processes_that_flush_at_once_lose_no_count_and_meet_no_deadlock(core: PrivateConnection) -> None:
    before = deadlocks(core)

    with ThreadPoolExecutor(PROCESSES) as pool:
        for process in [pool.submit(flush_at_random, seed) for seed in range(PROCESSES)]:
            process.result()

    assert deadlocks(core) == before
    expected = PROCESSES * FLUSHES * len(NAMES) * len(RUN_TIMES)
    for table in ("esteira_stat", "esteira_stattotal"):
        assert added(core, table)["n"] == expected


def flush_at_random(seed: int) -> None:
    chance, core = random.Random(seed), PrivateConnection(f"process {seed}", timeout_s=30)
    try:
        for _ in range(FLUSHES):
            counted(chance.sample(NAMES, len(NAMES)), RUN_TIMES).flush(core)
    finally:
        core.close()
