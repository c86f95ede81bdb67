"""The page `/metrics`, against rows that the test made; `test_server` holds who may read it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from prometheus_client.parser import text_string_to_metric_families

import esteira
from esteira import job, operate
from esteira.db import PrivateConnection
from esteira.keeper.retention import Retention
from esteira.record import claim, lease, rescue
from esteira.stats import Stats
from esteira_web.server import queued
from esteira_web.server.metrics import TIMEOUT_S, Page
from tests.integration.test_record_plans import Explained
from tests.support.alerts import metrics_used
from tests.support.jobs import TYPE, elapse, look, running, stored

Labels = frozenset[tuple[str, str]]


class Scraped:
    """One page, as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[f"esteira_{name}", frozenset(labels.items())]

    def counters(self) -> dict[tuple[str, Labels], float]:
        return {
            key: value for key, value in self._values.items() if key[0].endswith(("_total", "_count", "_sum"))
        }


@pytest.fixture
def page(database: None) -> Iterator[Page]:
    page = Page()
    yield page
    page.close()


def scraped(page: Page) -> Scraped:
    page._made = float("-inf")  # so that the kept page is not given again
    return Scraped(page())


def worker(
    core: PrivateConnection, name: str, *, state: str = "up", slots: int = 2, seen_s: float = 0
) -> None:
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state, last_seen)
           VALUES (%s, 'b-1-1', 'h', 1, '[]', '[]', %s, %s, clock_timestamp() - %s * interval '1 second')""",
        [name, slots, state, seen_s],
    )


def test_an_idle_installation_has_a_zero_for_everything_that_it_knows(page: Page, job_types: None) -> None:
    @job(name="t.known", queue="letters")
    def known(ctx: Any) -> None:
        """Write a letter."""

    found = scraped(page)

    assert found("build_info", version=esteira.__version__) == 1
    for name in ("jobs_waiting", "jobs_scheduled", "jobs_running", "oldest_due_seconds", "queue_paused"):
        assert found(name, queue="letters") == 0
    for state in ("succeeded", "failed", "dead", "cancelled", "expired"):
        assert found("jobs_finished_total", type="t.known", queue="letters", state=state) == 0
    assert found("jobs_retried_total", type="t.known", queue="letters") == 0
    assert found("job_run_seconds_count", type="t.known", queue="letters") == 0
    assert [found("workers", state=state) for state in ("up", "silent", "gone")] == [0, 0, 0]
    assert found("worker_slots") == 0
    assert found("keeper_last_sweep_seconds") == float("inf")
    assert found("redis_up") == 1
    assert found("files_bytes") == 0
    assert [found("not_measured", part=part) for part in queued.PARTS] == [0, 0, 0, 0]


def test_waiting_scheduled_and_running_jobs_are_counted_apart(page: Page, core: PrivateConnection) -> None:
    stored(core, 3)
    stored(core, 2, publish=True)
    stored(core, 4, priority=3, type="tests.other", delay_s=3600.0)
    stored(core, 1, queue="mail")
    running(core, 2, queue="mail")

    found = scraped(page)

    assert [found("jobs_waiting", queue=queue) for queue in ("default", "mail")] == [5, 1]
    assert [found("jobs_scheduled", queue=queue) for queue in ("default", "mail")] == [4, 0]
    assert [found("jobs_running", queue=queue) for queue in ("default", "mail")] == [0, 2]


@pytest.mark.parametrize("published", [False, True])
def test_the_age_is_that_of_the_job_that_waits_longest(
    page: Page, core: PrivateConnection, published: bool
) -> None:
    old, *_ = stored(core, 3, publish=published)
    elapse(core, old, "run_at", 500)
    stored(core, 1, queue="mail", delay_s=3600.0)

    found = scraped(page)

    assert 500 <= found("oldest_due_seconds", queue="default") < 560
    assert found("oldest_due_seconds", queue="mail") == 0


def test_a_long_backlog_is_counted_to_ten_thousand(page: Page, core: PrivateConnection) -> None:
    for hinted in (False, True):
        fill(core, queued.MOST + 10, hinted=hinted)

    assert scraped(page)("jobs_waiting", queue="default") == queued.MOST


def test_paused_queues_are_marked(page: Page, core: PrivateConnection) -> None:
    operate.pause("default", by="ana")
    assert scraped(page)("queue_paused", queue="default") == 1

    operate.resume("default", by="ana")
    assert scraped(page)("queue_paused", queue="default") == 0


def test_workers_are_up_silent_or_gone(page: Page, core: PrivateConnection) -> None:
    worker(core, "w1", slots=4)
    worker(core, "w2", slots=2)
    worker(core, "w3", slots=8, seen_s=3600)
    worker(core, "w4", slots=8, state="gone")

    found = scraped(page)

    assert [found("workers", state=state) for state in ("up", "silent", "gone")] == [2, 1, 1]
    assert found("worker_slots") == 6


def test_the_keeper_s_last_sweep_has_an_age(page: Page, core: PrivateConnection) -> None:
    core.fetch("UPDATE esteira_keeper SET last_sweep = clock_timestamp() - interval '90 seconds'")

    assert 90 <= scraped(page)("keeper_last_sweep_seconds") < 150


def test_bytes_of_files_are_added_up(page: Page, core: PrivateConnection) -> None:
    core.fetch(
        "INSERT INTO esteira_file (id, name, content_type, size, sha256)"
        " SELECT gen_random_uuid(), 'a', 'text/plain', 100, '' FROM generate_series(1, 3)"
    )

    assert scraped(page)("files_bytes") == 300


def backup(core: PrivateConnection, step: str, *, succeeded_s: float | None, failed_s: float | None) -> None:
    core.fetch(
        """INSERT INTO esteira_backup VALUES (%s, clock_timestamp() - %s * interval '1 second',
             clock_timestamp() - %s * interval '1 second')""",
        [step, succeeded_s, failed_s],
    )


def test_backups_have_an_age_and_fail_until_the_next_success(page: Page, core: PrivateConnection) -> None:
    backup(core, "dump", succeeded_s=7200, failed_s=9000)
    backup(core, "upload", succeeded_s=None, failed_s=60)
    backup(core, "older", succeeded_s=7200, failed_s=60)

    found = scraped(page)

    assert 7200 <= found("backup_age_seconds", step="dump") < 7260
    assert found("backup_age_seconds", step="upload") == float("inf")
    assert [found("backup_failing", step=step) for step in ("dump", "upload", "older")] == [0, 1, 1]


def test_connections_are_counted_against_those_that_anybody_may_have(
    page: Page, core: PrivateConnection
) -> None:
    before = scraped(page)("database_connections")
    most, kept = core.fetch(
        "SELECT setting::int FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections') ORDER BY name"
    )
    another = PrivateConnection("another")
    another.fetch("SELECT 1")

    found = scraped(page)
    another.close()

    assert found("database_connections") > before
    assert found("database_connections_limit") == most[0] - kept[0]


def test_alerts_and_dashboard_ask_for_what_is_measured_and_all_of_it_is_used(
    page: Page, core: PrivateConnection
) -> None:
    backup(core, "dump", succeeded_s=60, failed_s=None)
    measured = {sample.name for family in scraped(page).families.values() for sample in family.samples}

    assert metrics_used() == measured


# --- Counters ------------------------------------------------------------------------------------------------------------


def flushed(core: PrivateConnection, *runs: tuple[str, float]) -> None:
    """Flush the counts of a process with some runs: state and seconds."""
    stats = Stats()
    for state, seconds in runs:
        stats.add(TYPE, "default", state, seconds)
    stats.flush(core)


def test_ends_and_run_times_are_those_that_processes_flushed(page: Page, core: PrivateConnection) -> None:
    flushed(core, ("succeeded", 0.02), ("succeeded", 0.3), ("retried", 7200))
    flushed(core, ("succeeded", 0.02), ("failed", 2))

    found, of = scraped(page), {"type": TYPE, "queue": "default"}

    assert found("jobs_finished_total", **of, state="succeeded") == 3
    assert found("jobs_finished_total", **of, state="failed") == 1
    assert found("jobs_retried_total", **of) == 1
    below = [
        found("job_run_seconds_bucket", **of, le=le)
        for le in ("0.01", "0.05", "0.5", "5.0", "3600.0", "+Inf")
    ]
    assert below == [0, 2, 3, 4, 4, 5]
    assert found("job_run_seconds_count", **of) == 5
    assert found("job_run_seconds_sum", **of) == pytest.approx(7202.34)


def test_no_counter_falls_when_retention_deletes_what_it_was_made_of(
    page: Page, core: PrivateConnection
) -> None:
    flushed(core, ("succeeded", 0.02), ("dead", 0))
    before = scraped(page).counters()
    core.fetch(
        "UPDATE esteira_stat SET minute = minute - %s * interval '1 day'",
        [settings.ESTEIRA_RETENTION_DAYS + 1],
    )

    assert not Retention().step(core)

    assert core.fetch("SELECT count(*) FROM esteira_stat") == [(0,)]
    assert scraped(page).counters() == before
    flushed(core, ("succeeded", 0.02))
    after = scraped(page)("jobs_finished_total", type=TYPE, queue="default", state="succeeded")
    assert after == 2


def ends(page: Page, state: str) -> float:
    return scraped(page)("jobs_finished_total", type=TYPE, queue="default", state=state)


def test_jobs_that_die_with_their_processes_are_counted(page: Page, core: PrivateConnection) -> None:
    (mine,) = running(core, delivery="d1")
    core.fetch("UPDATE esteira_job SET suspicion = %s", [rescue.MAX_SUSPICION - 1])

    assert rescue.process_lost(core, "d1") == {mine.id: "dead"}

    assert ends(page, "dead") == 1
    assert scraped(page)("job_run_seconds_count", type=TYPE, queue="default") == 0


def test_jobs_that_expire_are_counted_wherever_that_is_found(page: Page, core: PrivateConnection) -> None:
    stored(core, 2, expires_in_s=0.0)
    hinted = stored(core, 1, expires_in_s=0.0, publish=True)

    assert claim.unpublish_unclaimed(core, hinted) == 1
    assert claim.expire(core) == 2

    assert ends(page, "expired") == 3


def test_cancelled_jobs_are_counted_when_a_worker_had_them(page: Page, core: PrivateConnection) -> None:
    killed, returned, rescued = (running(core, delivery=f"d{n}")[0] for n in range(3))
    for one in (killed, returned, rescued):
        operate.cancel(one.id, by="ana", force=one is killed)

    assert lease.kill(core, killed.id, killed.attempt)
    assert lease.hand_back(core, [(returned.id, returned.attempt)]) == 1
    assert rescue.process_lost(core, "d2") == {rescued.id: "cancelled"}

    assert ends(page, "cancelled") == 3
    assert not [one for one in (killed, returned, rescued) if look(core, one.id).state != "cancelled"]


def test_refused_parameters_are_a_failure_in_the_end(page: Page, core: PrivateConnection) -> None:
    (mine,) = running(core)
    core.fetch("UPDATE esteira_job SET refused_since = clock_timestamp() - interval '1 hour'")

    claim.refuse(core, [(mine.id, mine.attempt, "no such field")], worker="w1")

    assert ends(page, "failed") == 1


def test_what_returns_to_the_queue_is_no_end(page: Page, core: PrivateConnection) -> None:
    (mine,) = running(core)

    assert lease.hand_back(core, [(mine.id, mine.attempt)]) == 1

    assert core.fetch("SELECT count(*) FROM esteira_stat") == [(0,)]


# --- What it costs -------------------------------------------------------------------------------------------------------


def test_a_page_is_kept_for_two_seconds(page: Page, core: PrivateConnection) -> None:
    first = page()
    stored(core, 1)

    assert page() == first
    page._made -= 2
    assert Scraped(page())("jobs_waiting", queue="default") == 1


def fill(core: PrivateConnection, n: int, *, type: str = TYPE, hinted: bool = False, in_s: float = 0) -> None:
    core.fetch(
        """INSERT INTO esteira_job
             (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, run_at, published_at)
           SELECT gen_random_uuid(), %s, '{}', 'default', 6, 4, 2, 10, 600,
             clock_timestamp() + %s * interval '1 second', CASE WHEN %s THEN clock_timestamp() END
           FROM generate_series(1, %s)""",
        [type, in_s, hinted, n],
    )


class AsMeasured(Explained):
    """Explains what is asked under the settings that the asker makes."""

    def fetch(self, sql: str, params: Any = ()) -> list[Any]:
        return self.core.fetch(sql, params) if "set_config" in sql else super().fetch(sql, params)


def cost(core: PrivateConnection) -> int:
    """Return how many blocks of the job table and its indexes a page reads."""
    explained = AsMeasured(core)
    queued.Queued(queued.Limited(explained)).count()
    assert len(explained.plans) == 3
    assert {scan.rpartition(" ")[2] for scan in explained.scans()} <= {
        "job_to_publish",
        "job_window",
        "job_claimed",
    }
    return explained.buffers


def test_what_is_beyond_ten_thousand_jobs_is_not_looked_at(core: PrivateConnection) -> None:
    def add(n: int) -> None:
        fill(core, n, type="tests.due")
        fill(core, n, type="tests.hinted", hinted=True)
        fill(core, n, type="tests.later", in_s=86400)
        core.fetch("ANALYZE esteira_job")

    running(core, 5)
    add(queued.MOST)
    short = cost(core)

    add(40_000)
    long = cost(core)

    assert long < short * 1.2 + 100


def test_scheduled_jobs_are_not_walked_over_to_find_what_is_due(core: PrivateConnection) -> None:
    fill(core, 50_000, in_s=86400)
    explained = AsMeasured(core)

    explained.fetch(queued._UNPUBLISHED.replace("j.run_at > (SELECT now FROM clock)", "false"))

    assert explained.buffers < 100, explained.scans()


# --- What takes too long -------------------------------------------------------------------------------------------------

OF_JOBS = ("jobs_waiting", "jobs_scheduled", "jobs_running", "oldest_due_seconds")


def test_what_takes_too_long_is_left_out_and_the_rest_is_measured(
    page: Page, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(core, 2)
    other = PrivateConnection("other")
    with other.transaction():
        other.fetch("LOCK TABLE esteira_job IN ACCESS EXCLUSIVE MODE")
        found = scraped(page)
        again = scraped(page)
    other.close()

    for one in (found, again):
        assert one("keeper_last_sweep_seconds") == float("inf")
        assert one("queue_paused", queue="default") == 0
        assert not one.families.keys() & {f"esteira_{name}" for name in OF_JOBS}
        assert [one("not_measured", part=part) for part in queued.PARTS] == [1, 1, 1, 0]
    monkeypatch.setattr("esteira_web.server.queued.time.monotonic", lambda: float("inf"))
    after = scraped(page)
    assert after("jobs_waiting", queue="default") == 2
    assert [after("not_measured", part=part) for part in queued.PARTS] == [0, 0, 0, 0]


def test_files_that_take_too_long_are_left_out(page: Page, core: PrivateConnection) -> None:
    other = PrivateConnection("other")
    with other.transaction():
        other.fetch("LOCK TABLE esteira_file IN ACCESS EXCLUSIVE MODE")
        found = scraped(page)
    other.close()

    assert found("jobs_waiting", queue="default") == 0
    assert found("not_measured", part="files") == 1
    assert "esteira_files_bytes" not in found.families


def test_a_server_that_is_too_slow_is_not_asked_twice(page: Page, core: PrivateConnection) -> None:
    other = PrivateConnection("other")
    with other.transaction():
        other.fetch("LOCK TABLE esteira_stattotal IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert page() == ""
        took = time.monotonic() - began
    other.close()

    assert TIMEOUT_S <= took < 2 * TIMEOUT_S, "each of two tries takes as long"
