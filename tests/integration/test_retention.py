"""What retention spares, what it passes over, and that nothing it meets takes long or holds rescues."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from esteira import Context, FileRef, files, job
from esteira.db import PrivateConnection
from esteira.db.erasing import DELETE_CHUNKS
from esteira.keeper import disposal
from esteira.keeper.disposal import BATCH
from esteira.keeper.retention import Retention
from esteira.keeper.schedules import write_ticks
from esteira.models import File, FileChunk, FileUse, Job, JobLog, Schedule
from tests.support.jobs import elapse, ended, stored
from tests.support.old_snapshots import Counted, old_snapshot

pytestmark = pytest.mark.usefixtures("database", "job_types")


class Letter(BaseModel):
    to: str
    attached: list[FileRef] = []


@pytest.fixture
def sends() -> Any:
    @job(name="tests.sends")
    def sends(ctx: Context, letters: dict[str, Letter], logo: FileRef | None = None) -> None: ...

    return sends


def age(core: PrivateConnection, days: float = 40) -> None:
    """Let so many days pass for all files and for all jobs that have ended."""
    core.fetch("UPDATE esteira_file SET created_at = created_at - %s * interval '1 day'", [days])
    core.fetch("UPDATE esteira_job SET finished_at = finished_at - %s * interval '1 day'", [days])


def keep(core: PrivateConnection) -> None:
    """Retention, as a keeper that just started does it, until it rests."""
    retention = Retention()
    for _ in itertools.takewhile(lambda _: retention.step(core) or not retention._next, range(500)):
        pass


def upload(name: str = "u") -> File:
    return files.save_upload(name, None, [b"x"])


def test_an_upload_that_a_waiting_job_names_stays_however_deep_it_stands(
    core: PrivateConnection, sends: Any
) -> None:
    logo, attached, spare = upload(), upload(), upload()
    letters = {"a": {"to": "ana", "attached": [str(attached.pk)]}}
    sends.after(days=60).submit(letters=letters, logo=str(logo.pk))
    age(core)

    keep(core)

    assert set(File.objects.values_list("pk", flat=True)) == {logo.pk, attached.pk}
    assert spare.pk not in FileUse.objects.values_list("file_id", flat=True)


def test_an_upload_goes_once_no_job_names_it(core: PrivateConnection, sends: Any) -> None:
    file = upload()
    for _ in range(2):
        sends.submit(letters={}, logo=str(file.pk))
    age(core)
    first, second = Job.objects.values_list("pk", flat=True)
    ended(core, first, "succeeded")
    elapse(core, first, "finished_at", 40 * 86400)

    keep(core)
    assert File.objects.count() == 1

    ended(core, second, "failed")
    keep(core)
    assert File.objects.count() == 1, "an operator may retry it"

    age(core)
    keep(core)
    keep(core)
    assert (Job.objects.count(), File.objects.count(), FileUse.objects.count()) == (0, 0, 0)


def test_many_jobs_of_one_submit_note_their_files(core: PrivateConnection, sends: Any) -> None:
    file = upload()

    sends.submit_many({"letters": {}, "logo": str(file.pk)} for _ in range(1200))

    assert FileUse.objects.filter(file=file).count() == 1200


def test_an_upload_that_a_schedule_names_stays_and_so_do_its_ticks_files(
    core: PrivateConnection, sends: Any
) -> None:
    file = upload()
    Schedule.objects.create(
        name="daily", type="tests.sends", params={"letters": {}, "logo": str(file.pk)}, every_s=1,
        origin="database",
    )  # fmt: skip
    age(core)
    keep(core)
    assert File.objects.count() == 1

    core.fetch(
        """UPDATE esteira_schedule SET anchor_at = anchor_at - interval '5 seconds',
             last_tick_at = last_tick_at - interval '5 seconds'"""
    )
    write_ticks(core)

    assert FileUse.objects.filter(file=file).exists()


def test_a_job_whose_file_another_job_names_stays_with_it(core: PrivateConnection, sends: Any) -> None:
    (maker,) = stored(core)
    with files.open_result(maker, 1, "f", db=core) as file:
        file.write(b"x")
    core.fetch("UPDATE esteira_file SET attached_at = clock_timestamp()")
    ended(core, maker, "succeeded")
    reader = sends.after(days=60).submit(letters={}, logo=str(File.objects.get().pk)).id
    age(core)

    keep(core)
    assert set(Job.objects.values_list("pk", flat=True)) == {maker, reader}
    assert files.open_file(File.objects.get().pk).read() == b"x"

    ended(core, reader, "succeeded")
    age(core)
    keep(core)
    keep(core)
    assert (Job.objects.count(), File.objects.count()) == (0, 0)


def with_files(core: PrivateConnection, jobs: int, chunks: int) -> list[UUID]:
    """Old jobs with a result file each, of so many chunks."""
    ids = stored(core, jobs)
    core.fetch(
        """INSERT INTO esteira_file (id, job_id, attempt, name, content_type, size, sha256, attached_at)
           SELECT id, id, 1, 'f', 'text/plain', 1, 'x', clock_timestamp() FROM esteira_job"""
    )
    core.fetch(
        """INSERT INTO esteira_filechunk (file_id, seq, data)
           SELECT f.id, n, convert_to(repeat('x', 100), 'UTF8') FROM esteira_file f, generate_series(1, %s) n""",
        [chunks],
    )
    core.fetch("UPDATE esteira_job SET state = 'cancelled', finished_at = clock_timestamp()")
    age(core)
    return ids


def test_the_bytes_of_many_files_go_a_few_at_a_time(core: PrivateConnection) -> None:
    with_files(core, 10, DELETE_CHUNKS)
    retention = Retention()
    retention._disposals[0].step(core, _now(core), float("-inf"))

    assert FileChunk.objects.count() == 9 * DELETE_CHUNKS
    assert not File.objects.exclude(sha256="").exists(), "nobody reads half a file"

    keep(core)
    assert (Job.objects.count(), FileChunk.objects.count()) == (0, 0)


def test_a_batch_that_takes_too_long_is_halved_until_it_fits(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job takes 20 ms to delete; ten of them take too long."""
    monkeypatch.setattr(disposal, "LIMIT_S", 0.15)
    core.fetch(
        """CREATE FUNCTION tests_slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(0.02); RETURN OLD; END'"""
    )
    core.fetch(
        "CREATE TRIGGER tests_slow BEFORE DELETE ON esteira_job FOR EACH ROW EXECUTE FUNCTION tests_slow()"
    )
    try:
        with_files(core, 30, 1)
        keep(core)
    finally:
        core.fetch("DROP TRIGGER tests_slow ON esteira_job")
        core.fetch("DROP FUNCTION tests_slow")

    assert Job.objects.count() == 0


@pytest.fixture
def foreign(core: PrivateConnection) -> Iterator[None]:
    """Somebody's own table that refers to jobs."""
    core.fetch("CREATE TABLE tests_orders (job_id uuid REFERENCES esteira_job)")
    yield
    core.fetch("DROP TABLE tests_orders")


def test_a_job_that_cannot_go_is_passed_over(
    core: PrivateConnection, foreign: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "esteira.keeper")
    ids = with_files(core, 40, 1)
    core.fetch("INSERT INTO tests_orders VALUES (%s)", [ids[7]])

    keep(core)

    assert list(Job.objects.values_list("pk", flat=True)) == [ids[7]]
    assert f"retention skips {ids[7]}" in caplog.text
    core.fetch("DELETE FROM tests_orders")
    keep(core)
    assert Job.objects.count() == 0


def test_more_that_cannot_go_than_a_batch_do_not_stand_before_the_others(
    core: PrivateConnection, foreign: None
) -> None:
    bad = stored(core, BATCH + 20)
    core.fetch("INSERT INTO tests_orders SELECT id FROM esteira_job")
    good = stored(core, 30)
    core.fetch("UPDATE esteira_job SET state = 'cancelled', finished_at = clock_timestamp()")
    core.fetch(
        "UPDATE esteira_job SET finished_at = finished_at - interval '50 days' WHERE id = ANY(%s)", [bad]
    )
    core.fetch(
        "UPDATE esteira_job SET finished_at = finished_at - interval '40 days' WHERE id = ANY(%s)", [good]
    )

    keep(core)

    assert set(Job.objects.values_list("pk", flat=True)) == set(bad)


def test_a_job_that_somebody_holds_waits_and_is_no_absence(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disposal, "LIMIT_S", 0.1)
    ids, other = with_files(core, 3, 1), PrivateConnection("other")
    with other.transaction():
        other.fetch("SELECT 1 FROM esteira_file WHERE job_id = %s FOR UPDATE", [ids[1]])
        keep(core)
        assert list(Job.objects.values_list("pk", flat=True)) == [ids[1]]
    other.close()

    keep(core)
    assert Job.objects.count() == 0


def test_a_job_with_a_log_that_is_retried_meanwhile_stays(core: PrivateConnection) -> None:
    (job_id,) = with_files(core, 1, 1)
    JobLog.objects.create(job_id=job_id, attempt=1, text="x")
    retention = Retention()
    retention._disposals[0]._found = [job_id]
    core.fetch("SELECT set_config('esteira.transition', 'T13', false)")
    core.fetch("UPDATE esteira_job SET state = 'queued', finished_at = NULL")
    core.fetch("SELECT set_config('esteira.transition', '', false)")

    keep(core)
    retention.step(core)

    assert (Job.objects.count(), JobLog.objects.count()) == (1, 1)


def test_old_files_that_stay_cost_retention_nothing(core: PrivateConnection) -> None:
    """A result of a finished job lives as long as the job: for 29 days its file is old, and not to be deleted."""
    core.fetch(
        """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s,
             state, finished_at)
           SELECT gen_random_uuid(), 't', '{}', 'default', 6, 4, 2, 10, 600, 'cancelled', clock_timestamp()
           FROM generate_series(1, 20000)"""
    )
    core.fetch(
        """INSERT INTO esteira_file
             (id, job_id, attempt, name, content_type, size, sha256, created_at, attached_at)
           SELECT id, id, 1, 'f', 'text/plain', 1, 'x', clock_timestamp() - interval '20 days', clock_timestamp()
           FROM esteira_job"""
    )
    core.fetch("ANALYZE esteira_job, esteira_file")
    counted = Counted("counted")

    assert Retention().step(counted) is False

    counted.close()
    assert counted.blocks < 300


def test_what_was_deleted_under_an_old_snapshot_is_not_read_with_each_step(core: PrivateConnection) -> None:
    counted, retention = Counted("counted"), Retention()
    with old_snapshot():
        with_files(core, 1000, 1)
        core.fetch("DELETE FROM esteira_filechunk")
        core.fetch("DELETE FROM esteira_file")
        core.fetch("DELETE FROM esteira_job")
        retention.step(counted)
        counted.blocks = 0

        for _ in range(20):
            retention.step(counted)

    counted.close()
    assert counted.blocks < 1000


def _now(core: PrivateConnection) -> float:
    return float(core.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])
