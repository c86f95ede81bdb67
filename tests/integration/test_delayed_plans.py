"""The cost of statements beside many delayed jobs: only due jobs are read, by an index that ends there."""

from __future__ import annotations

import pytest

from esteira.db import PrivateConnection
from esteira.keeper.disposal import BATCH
from esteira.keeper.retention import DAY_S, Retention
from esteira.record.claim import expire
from tests.integration.test_record_plans import Explained, explained, published_blocks  # noqa: F401
from tests.support.jobs import TYPE, stored
from tests.support.old_snapshots import Counted
from tests.support.waiting import until

MANY = 50_000
#: A page of an index holds a hundred rows and more; reading all of them takes hundreds of pages.
FEW_BLOCKS = 150

LATER = """
INSERT INTO esteira_job
  (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, run_at, expires_at, state, finished_at)
SELECT gen_random_uuid(), %(type)s, '{}', 'default', 6, 4, 2, 10, 600,
  CASE WHEN %(what)s = 'scheduled' THEN clock_timestamp() + interval '1 day' ELSE clock_timestamp() END,
  CASE WHEN %(what)s = 'expiring' THEN clock_timestamp() + interval '1 day' END,
  CASE WHEN %(what)s = 'ended' THEN 'cancelled' ELSE 'queued' END,
  CASE WHEN %(what)s = 'ended' THEN clock_timestamp() END
FROM generate_series(1, %(n)s)"""


def fill(core: PrivateConnection, what: str) -> None:
    core.fetch(LATER, {"type": TYPE, "what": what, "n": MANY})
    core.fetch("ANALYZE esteira_job")


def test_publishing_does_not_read_what_is_scheduled(core: PrivateConnection, explained: Explained) -> None:  # noqa: F811
    stored(core, 5)
    fill(core, "scheduled")

    assert published_blocks(explained) < FEW_BLOCKS, explained.scans()


def test_expiring_does_not_read_what_has_time(core: PrivateConnection, explained: Explained) -> None:  # noqa: F811
    fill(core, "expiring")

    expire(explained)

    assert explained.buffers < FEW_BLOCKS, explained.scans()


def test_retention_does_not_read_what_is_young(core: PrivateConnection) -> None:
    fill(core, "ended")
    counted = Counted("counted")

    assert Retention().step(counted) is False

    counted.close()
    assert counted.blocks < FEW_BLOCKS


@pytest.mark.parametrize("old", [3, BATCH + 3])
def test_retention_still_finds_what_is_old(core: PrivateConnection, old: int) -> None:
    stored(core, old)
    core.fetch(
        """UPDATE esteira_job SET state = 'cancelled',
             finished_at = clock_timestamp() - 31 * %s * interval '1 second'""",
        [DAY_S],
    )
    retention = Retention()

    def all_gone() -> bool:
        retention.step(core)
        return bool(core.fetch("SELECT count(*) FROM esteira_job") == [(0,)])

    until(all_gone, "all are deleted", every=0)
