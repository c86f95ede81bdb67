"""No index without a query that needs it: each makes every row more expensive to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings

from bench import history
from esteira.db import Db, PrivateConnection, Row
from esteira.files.space import refuse_over_quota
from esteira.keeper import reconcile, retention, schedules
from esteira.record import claim, publish, rescue, task_rows, waiting
from esteira.search import Wanted, search
from tests.support.jobs import UNKNOWN_ID
from tests.support.plans import generic_plan

MANY = 5_000
TYPES = history.TYPES[:3]
BETWEEN: dict[str, Any] = {"after": 0.0, "until": 1e9, "limit": 500, "skipped": []}


class Planned(PrivateConnection):
    """A private connection that keeps the names of the indexes in the plans of its statements."""

    def __init__(self) -> None:
        super().__init__("planned", timeout_s=30)
        self.indexes = set[str]()

    def fetch(self, sql: str, params: Any = ()) -> list[Row]:
        if re.match(r"\s*(WITH|SELECT|UPDATE|DELETE|INSERT)", sql) and "set_config" not in sql:
            with self.transaction():
                self._keep(generic_plan(self, sql, params))
                raise psycopg.Rollback
        return super().fetch(sql, params)

    def _keep(self, node: dict[str, Any]) -> None:
        self.indexes |= {node["Index Name"]} if "Index Name" in node else set()
        for child in node.get("Plans", []):
            self._keep(child)


def old(db: Db, sql: str) -> None:
    db.fetch(sql, BETWEEN)


def in_quota(db: Db) -> None:
    with db.transaction():
        refuse_over_quota(db, "user:7", 1)


def retire(db: Db, step: str) -> None:
    """Find what one step of retention would remove."""
    old(db, next(one for one in retention.Retention()._disposals if one._name == step)._sql)


SERVED = {"default": list(TYPES)}
#: By index: a query that needs it.
USES: dict[str, Callable[[Db], object]] = {
    "job_to_publish": lambda db: waiting.publish_due(
        db, queue="default", types=TYPES, priorities=[3, 6, 9], limit=10
    ),
    "job_turns": lambda db: publish.publish_turns(db, served=SERVED, limit=10),
    "job_turn_offered": lambda db: publish.publish_turns(db, served=SERVED, limit=10),
    "job_front": lambda db: publish.publish_front(db, queue="default", types=TYPES, limit=10),
    "job_window": lambda db: list(reconcile._published(db, 0.0, 1e10)),
    "job_claimed": lambda db: rescue.claimed(db, 0.0, 1e10),
    "job_expiry": lambda db: claim.expire(db, after=0.0, until=1e10),
    "job_finished": lambda db: retire(db, "jobs"),
    "job_account": lambda db: search(db, Wanted(account="user:7"), most=50),
    "job_schedule_open": lambda db: schedules._is_open(db, 1),
    "job_ended_badly": lambda db: search(db, Wanted(states=["dead"]), most=50),
    "job_later": lambda db: search(db, Wanted(states=["scheduled"]), most=50),
    "esteira_jobevent_job_id": lambda db: db.fetch(
        "DELETE FROM esteira_jobevent WHERE job_id = ANY(%s)", [[UNKNOWN_ID]]
    ),
    "esteira_joblog_job_id": lambda db: db.fetch(
        "SELECT attempt, text FROM esteira_joblog WHERE job_id = %s ORDER BY id DESC", [UNKNOWN_ID]
    ),
    "file_account": in_quota,
    "file_upload": lambda db: retire(db, "uploads"),
    "file_loose": lambda db: retire(db, "unattached files"),
    "esteira_fileuse_file_id": lambda db: retire(db, "uploads"),
    "esteira_idempotencykey_created_at": lambda db: retire(db, "rows of esteira_idempotencykey"),
    "esteira_scheduleskip_tick_at": lambda db: retire(db, "rows of esteira_scheduleskip"),
    "job_task_id": lambda db: task_rows.rows_of(db, ["an id"]),
    "job_unsettled": lambda db: task_rows.unsettled(db, limit=10, skipped=[]),
    "task_result_expiry": lambda db: retire(db, "rows of esteira_taskresult"),
    "task_group_expiry": lambda db: retire(db, "rows of esteira_taskgroup"),
    "task_chord_expiry": lambda db: retire(db, "rows of esteira_taskchord"),
    "task_revoked_expiry": lambda db: retire(db, "rows of esteira_taskrevoked"),
}
#: Constraints need their own indexes. Django adds one for LIKE to a unique text; no table with many rows has such a
#: column.
_INDEXES = """
SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
WHERE t.relname LIKE 'esteira\\_%' AND t.relname NOT LIKE 'esteira\\_web\\_%' AND NOT i.indisunique
  AND i.indexrelid::regclass::text NOT LIKE '%\\_like'"""

#: Uploads of a hundred accounts: for an empty table, one index is as good as another.
_UPLOADS = """
INSERT INTO esteira_file (id, name, content_type, size, sha256, account)
SELECT gen_random_uuid(), 'a.txt', 'text/plain', 1, repeat('0', 64), 'user:' || n %% 100
FROM generate_series(1, %(many)s) AS n"""


@pytest.fixture
def planned(core: PrivateConnection) -> Iterator[Planned]:
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as server:
        history.past(server, MANY)
        server.execute(_UPLOADS, {"many": MANY})
        server.execute("ANALYZE esteira_job, esteira_file")
    planned = Planned()
    yield planned
    planned.close()


def named(index: str) -> str:
    """Return the name of an index without the digits that Django appends to names that it makes."""
    return re.sub(r"_[0-9a-f]{8}$", "", index)


def test_each_index_has_a_query_that_uses_it(planned: Planned, core: PrivateConnection) -> None:
    with psycopg.connect(settings.DATABASE_URL) as server:
        indexes = {named(row[0]) for row in server.execute(_INDEXES).fetchall()}
    assert indexes == set(USES)

    unused = set()
    for index, query in USES.items():
        planned.indexes.clear()
        query(planned)
        if index not in set(map(named, planned.indexes)):
            unused.add((index, *planned.indexes))

    assert not unused


def test_the_files_of_a_job_are_found_by_the_index_of_their_names(planned: Planned) -> None:
    planned.fetch(retention._LOCK_FILES_OF, {"ids": [UNKNOWN_ID]})
    planned.fetch("DELETE FROM ONLY esteira_file WHERE %s OPERATOR(pg_catalog.=) job_id", [UNKNOWN_ID])

    assert planned.indexes <= {"file_one_name_per_attempt", "esteira_file_pkey"}
    assert "file_one_name_per_attempt" in planned.indexes


def test_a_list_of_all_jobs_reads_the_primary_key(planned: Planned) -> None:
    for wanted in (Wanted(), Wanted(types=[TYPES[2]]), Wanted(states=["succeeded"], queue="rare")):
        planned.indexes.clear()

        found = search(planned, wanted, most=50)

        assert planned.indexes == {"esteira_job_pkey"}
        assert found.keys == sorted(found.keys, reverse=True)
        assert found.keys == sorted(found.keys, key=_id_of, reverse=True)


def _id_of(key: tuple[Any, UUID]) -> UUID:
    return key[1]
