"""The peers: how each is built, and how the benchmark sees that its jobs have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
import redis

from bench.peers import building


class Store:
    """A peer's database in PostgreSQL, and the part of Redis that it may use."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._sql = psycopg.connect(database_url, autocommit=True)
        self._sql.execute("SET enable_seqscan = off")  # it is asked often, and should cost little
        self.redis = redis.Redis.from_url(redis_url)

    def close(self) -> None:
        self._sql.close()
        self.redis.close()

    def one(self, sql: str) -> int:
        row = self._sql.execute(sql).fetchone()
        assert row is not None
        return int(row[0])


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another queue. `jobs` and `jobs_1ms` keep it busy for some seconds."""

    name: str
    build: building.Build
    open: Callable[[Store], bool]
    ended: Callable[[Store], int]
    jobs: int
    jobs_1ms: int
    #: One process of Go uses two processors; the other languages use one each.
    processes: int = 2
    env: dict[str, str] = field(default_factory=dict)
    #: Whether its 1 ms is the loop of this benchmark in Python, whose turns are counted already.
    in_python: bool = False


def _sql(sql: str) -> Callable[[Store], int]:
    return lambda store: store.one(sql)


RIVER = Peer(
    name="River",
    build=building.go("river"),
    open=_sql("SELECT EXISTS (SELECT FROM river_job WHERE state IN ('available', 'running', 'retryable'))"),
    ended=_sql("SELECT count(*) FROM river_job WHERE state = 'completed'"),
    jobs=60_000,
    jobs_1ms=4_000,
    processes=1,
    env={"GOMAXPROCS": "2"},
)
PGQUEUER = Peer(
    name="PGQueuer",
    build=building.python("pgqueuer"),
    open=_sql("SELECT EXISTS (SELECT FROM pgqueuer)"),
    ended=_sql("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"),
    jobs=40_000,
    jobs_1ms=4_000,
    in_python=True,
)
PROCRASTINATE = Peer(
    name="procrastinate",
    build=building.python("procrastinate"),
    open=_sql("SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"),
    ended=_sql("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"),
    jobs=2_000,
    jobs_1ms=1_500,
    in_python=True,
)
BULLMQ = Peer(
    name="BullMQ",
    build=building.node("bullmq"),
    open=lambda store: bool(store.redis.exists("bull:bench:wait", "bull:bench:active")),
    ended=lambda store: int(store.redis.zcard("bull:bench:completed")),
    jobs=30_000,
    jobs_1ms=4_000,
)
PEERS = (RIVER, PGQUEUER, PROCRASTINATE, BULLMQ)
